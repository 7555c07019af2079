// Package kvmtest boots a real Linux guest under a real QEMU, for tests.
//
// Reach for it to test what talks to QEMU or to a guest agent. The guest is made from Debian packages: the cloud
// kernel, the stock qemu-guest-agent with the libraries that it needs, and as everything else one Go program of this
// package, which is its init and does what tests ask for.
//
// # What it needs
//
// Linux on amd64 with qemu-system-x86_64, apt-get, dpkg-deb, mke2fs and a Go toolchain. Where something is missing,
// [Build] returns an [UnavailableError] that names it, for a test to skip with. What was built is kept in
// $HIKAE_FIXTURE_DIR/hikae-fixture, or in the user's cache folder, about 90 MB; the first build downloads 27 MB.
//
// # Emulation
//
// The guest runs on TCG, always. That /dev/kvm is there does not say that a guest kernel runs on it: nested in some
// cloud machines it hangs. Emulated it answers after 4 to 6 seconds on an idle machine.
package kvmtest
