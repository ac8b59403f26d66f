/*
 * boot-init: the init of `boot`. Says when it was reached, tries what the kernel is configured for, and resets the
 * machine. "boot: NAME: ok" or "boot: NAME: REASON" on the console, one line each.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

static void report(const char *name, int result)
{
	printf("boot: %s: %s\n", name, result < 0 ? strerror(errno) : "ok");
}

static int read_line(const char *path, char *line, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return -1;
	length = read(fd, line, size - 1);
	close(fd);
	if (length < 0)
		return -1;
	line[length] = '\0';
	line[strcspn(line, "\n")] = '\0';
	return 0;
}

/* Prints a file's first line, or the reason why it has none. */
static void show(const char *name, const char *path)
{
	char line[4096];

	printf("boot: %s: %s\n", name, read_line(path, line, sizeof(line)) < 0 ? strerror(errno) : line);
}

static void try_virtio_fs(void)
{
	char line[64];
	int fd, result = mount("runvm", "/run", "virtiofs", 0, NULL);

	report("virtio-fs mount", result);
	if (result < 0)
		return;
	report("virtio-fs read", read_line("/run/from-host", line, sizeof(line)));
	fd = open("/run/from-guest", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	report("virtio-fs write", fd < 0 ? -1 : (int)write(fd, line, strlen(line)));
}

/* In a child, as the privilege to reset the machine does not come along into a new user namespace. */
static void try_namespaces(void)
{
	int status = -1;
	pid_t child = fork();

	if (child == 0)
		_exit(unshare(CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWTIME |
			      CLONE_NEWUSER | CLONE_NEWUTS) < 0 ? errno : 0);
	if (child < 0 || waitpid(child, &status, 0) < 0) {
		report("namespaces", -1);
		return;
	}
	errno = WEXITSTATUS(status);
	report("namespaces", errno ? -1 : 0);
}

static void try_containers(void)
{
	report("cgroup2", mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL));
	show("cgroup controllers", "/sys/fs/cgroup/cgroup.controllers");
	try_namespaces();
	report("terminals", mkdir("/dev/pts", 0755) | mount("devpts", "/dev/pts", "devpts", 0, "newinstance"));
}

static double now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

/* The host's part of `tsc_early_khz`: the time stamp counter's rate, over 20 ms. */
static int print_tsc_khz(void)
{
	double from_ms = now_ms(), to_ms;
	unsigned long long from = __rdtsc();

	do
		to_ms = now_ms();
	while (to_ms < from_ms + 20);
	printf("%.0f\n", (__rdtsc() - from) / (to_ms - from_ms));
	return 0;
}

int main(int argc, char **argv)
{
	struct timespec reached;
	char command_line[4096];

	if (argc == 2 && strcmp(argv[1], "tsc-khz") == 0)
		return print_tsc_khz();
	clock_gettime(CLOCK_BOOTTIME, &reached);
	setlinebuf(stdout);
	printf("boot: init reached at %ld us\n", reached.tv_sec * 1000000 + reached.tv_nsec / 1000);
	if (mount("proc", "/proc", "proc", 0, NULL) < 0 || read_line("/proc/cmdline", command_line, sizeof(command_line)) < 0)
		report("proc", -1);
	if (strstr(command_line, "boot.panic"))
		return 1;
	if (strstr(command_line, "boot.try")) {
		report("sysfs", mount("sys", "/sys", "sysfs", 0, NULL));
		report("devtmpfs", mount("dev", "/dev", "devtmpfs", 0, NULL));
		show("clock source", "/sys/devices/system/clocksource/clocksource0/current_clocksource");
		show("entropy from", "/sys/class/misc/hw_random/rng_current");
		show("processors", "/sys/devices/system/cpu/online");
		report("vsock", socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
		try_virtio_fs();
		try_containers();
	}
	/* Without ACPI nothing can switch the machine off; reset is what both hypervisors take for the end. */
	reboot(RB_AUTOBOOT);
	return 1;
}
