# shellcheck shell=bash
# The machine: QEMU's q35 in emulation, its root file system from virtiofsd, one virtio-serial port each for the
# command's stdout, its stderr, and what guest-init reports. Part of testhost.
# shellcheck disable=SC2154 # here, run, kernel, virtiofsd and what options set are testhost's

# Serves this machine's tree, in a mount namespace of its own: see share.
start_share() {
	mkdir "$run/root"
	# --pdeathsig: should this script be killed without a chance to clean up, the rest goes with it.
	setpriv --pdeathsig TERM unshare --mount --propagation private \
		"$here/share" "$run" "$kernel/lib/modules" "$virtiofsd" "${writable[@]}" </dev/null >"$run/share.log" 2>&1 &
	share=$!
	children+=("$share")
	until [ -S "$run/share.sock" ]; do
		kill -0 $share 2>/dev/null || die "cannot share the root file system: $(cat "$run/share.log")"
		sleep 0.01
	done
}

run_machine() {
	local code=0
	# cat stands between QEMU and our stdout since QEMU makes what it writes to non-blocking, for all who share it.
	exec {out}> >(exec cat)
	local readers=($!)
	exec {err}> >(exec {out}>&- && exec cat >&2)
	readers+=($!)
	exec {report}> >(exec {out}>&- {err}>&- && follow_reports)
	readers+=($!)

	qemu_arguments
	# TESTHOST_QEMU_ARGS: extra words for QEMU, to be split.
	# shellcheck disable=SC2086
	setpriv --pdeathsig TERM timeout "$limit_s" qemu-system-x86_64 "${qemu[@]}" ${TESTHOST_QEMU_ARGS-} \
		</dev/null >"$run/qemu.log" 2>&1 &
	local machine=$!
	children+=("$machine")
	# Now only QEMU writes to the readers, so they end when it does.
	exec {out}>&- {err}>&- {report}>&-
	wait $machine || code=$?
	wait "${readers[@]}" || :
	[ "$verbose" = 0 ] || say "done in $(elapsed_ms) ms"

	if [ -s "$run/exit" ]; then exit "$(cat "$run/exit")"; fi
	[ $code != 124 ] || { say "timed out after $limit_s s" && exit 124; }
	tail -n 60 "$run/qemu.log" "$run/share.log" "$run/console" >&2 || :
	die "the machine ended without an exit code (QEMU's: $code)"
}

# guest-init writes a line "up SECONDS" before the command and "exit CODE" after it.
follow_reports() {
	local word value
	while read -r word value; do
		case $word in
		up) [ "$verbose" = 0 ] || say "up in $(elapsed_ms) ms (by its own clock $value s)" ;;
		exit) echo "$value" >"$run/exit" ;;
		esac
	done
}

qemu_arguments() {
	qemu=(
		-M "q35,memory-backend=memory,vmport=off" -m "$mem_mib" -smp "$cpus"
		# All the CPU features TCG can do: SVM with nested paging is among them.
		-cpu max
		# One thread for all CPUs: with one each they race where the kernel patches its own text (int3 oopses).
		-accel "${TESTHOST_ACCEL:-tcg,thread=single,tb-size=512}"
		# virtiofsd reads and writes the machine's memory.
		-object "memory-backend-memfd,id=memory,size=${mem_mib}M,share=on"
		-nodefaults -display none -no-reboot
		# Less firmware to wait for than SeaBIOS.
		-bios qboot.rom
		-kernel "$kernel/vmlinux" -append "$(kernel_command_line)"
		-serial file:"$run/console"
		-chardev "socket,id=share,path=$run/share.sock" -device "vhost-user-fs-pci,chardev=share,tag=share,queue-size=1024"
		-device virtio-serial-pci
		# The port numbers are guest-init's, too.
		-chardev "file,id=out,path=/dev/fd/$out" -device "virtserialport,chardev=out,nr=1"
		-chardev "file,id=err,path=/dev/fd/$err" -device "virtserialport,chardev=err,nr=2"
		-chardev "file,id=report,path=/dev/fd/$report" -device "virtserialport,chardev=report,nr=3"
	)
	# sleep=off: an idle machine skips to its next timer instead of waiting for it.
	[ "$icount" = 0 ] || qemu+=(-icount "shift=0,sleep=off")
	# edu and e1000e: a plain and a real PCI device to give to vfio-pci.
	[ "$iommu" = 0 ] || qemu+=(-device "intel-iommu,intremap=on,caching-mode=on" -device edu -device e1000e)
}

kernel_command_line() {
	local words=(
		root=share rootfstype=virtiofs rw init=/mnt/init
		console=ttyS0 quiet
		# Any oops is a failed test, and ends the machine at once.
		oops=panic panic=-1
		cgroup_no_v1=all
		# A busy machine under this one must not look like a broken timer. (tsc=reliable would be wrong: the watchdog
		# is what finds out when the same cause made the calibration of the TSC go wrong.)
		no_timer_check
		# What only costs time in emulation.
		norandmaps mitigations=off cryptomgr.notests
		"initcall_blacklist=jent_mod_init,load_system_certificate_list,trace_eval_init"
	)
	[ "$iommu" = 0 ] || words+=(intel_iommu=on)
	echo "${words[*]} ${TESTHOST_APPEND-}"
}
