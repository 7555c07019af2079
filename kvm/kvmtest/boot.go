//go:build linux

package kvmtest

// Boot is what the small guest boots from, for a test that starts it by other means: a kernel that QEMU loads by itself,
// its initramfs, and its command line.
func (f *Fixture) Boot() (kernel, initramfs, commandLine string) {
	return f.kernel, f.initramfs, "console=ttyS0 quiet panic=-1 mitigations=off"
}
