# shellcheck shell=bash
# The machine's kernel: Debian's 6.12 cloud image, which has virtiofs, virtio-pci and virtio-console built in, so no
# initramfs has to be made; and is of the same series as the guest kernel of runvm. Part of testhost.
# shellcheck disable=SC2154 # here, cache, run and cache_lock are testhost's

# A package name, or one that depends on the kernel's package, as Debian's "newest 6.12" does.
kernel_package=${TESTHOST_KERNEL:-linux-image-6.12-cloud-amd64}

# Sets kernel to a directory with vmlinux and lib/modules, fetching it the first time.
find_kernel() {
	# The way of unpacking is part of the name, so a change here does not meet what an older one made.
	kernel=$cache/kernel-$kernel_package-$(sha256sum "$here/kernel.sh" | cut -c 1-8)
	if [ ! -e "$kernel/vmlinux" ]; then
		flock "$cache_lock"
		[ -e "$kernel/vmlinux" ] || fetch_kernel
		flock --unlock "$cache_lock"
	fi
}

fetch_kernel() {
	local package
	package=$(apt-cache depends "$kernel_package" 2>/dev/null | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
	[ -n "$package" ] || package=$kernel_package
	apt-cache show "$package" >/dev/null 2>&1 ||
		die "apt knows no package $package; run apt-get update (on Debian 12 it is in bookworm-security)"
	say "fetching and unpacking $package, once"

	# Inside the run directory, so whatever goes wrong, nothing half-made stays.
	local new=$run/kernel
	mkdir "$new"
	# Sandbox::User: apt's own user may not write below root's home.
	(cd "$new" && apt-get --quiet=2 --option APT::Sandbox::User=root download "$package") || die "cannot download $package"
	dpkg-deb --extract "$new"/*.deb "$new"
	unpack_vmlinux "$new"/boot/vmlinuz-* >"$new/vmlinux"
	prepare_modules "$new"
	rm -rf "${new:?}"/{*.deb,boot,usr}
	mv --no-target-directory "$new" "$kernel"
}

# A bzImage unpacks itself, which takes seconds in emulation; QEMU starts the ELF file inside it by its PVH entry.
# Fields of the setup header: the kernel's Documentation/arch/x86/boot.rst.
unpack_vmlinux() {
	local image=$1 setup_sectors payload_offset payload_length offset unpack
	setup_sectors=$(od -An -tu1 -j $((0x1f1)) -N 1 "$image")
	payload_offset=$(od -An -tu4 -j $((0x248)) -N 4 "$image")
	payload_length=$(od -An -tu4 -j $((0x24c)) -N 4 "$image")
	offset=$(((setup_sectors + 1) * 512 + payload_offset))
	case $(od -An -tx4 -j $offset -N 4 "$image") in
	*fd2fb528) unpack=(zstd) ;;
	*184c2102) unpack=(lz4) ;;
	# The kernel's build appends the unpacked size, which is not xz.
	*587a37fd) unpack=(xz --single-stream) ;;
	*) die "$image is compressed in an unknown way" ;;
	esac
	# The last 4 bytes of the payload are that size.
	dd if="$image" bs=64K iflag=skip_bytes,count_bytes skip=$offset count=$((payload_length - 4)) status=none |
		"${unpack[@]}" --decompress --stdout
}

# Unpacked modules load several times faster in emulation.
prepare_modules() {
	local new=$1 modules
	modules=$(echo "$new"/lib/modules/*)
	find "$modules" -name '*.ko.xz' -print0 | xargs -0 --no-run-if-empty --max-procs "$(nproc)" -n 64 xz --decompress
	(cd "$modules" && busybox depmod -b "$new" "${modules##*/}")
	# Of the three transports that claim vsock only virtio's can work here.
	sed -i '/net-pf-40 \(hv_sock\|vmw_vsock_vmci\)/d' "$modules/modules.alias"
	# The first open of /dev/kvm loads kvm_amd.
	echo 'alias char-major-10-232 kvm_amd' >>"$modules/modules.alias"
}
