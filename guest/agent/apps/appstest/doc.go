// Package appstest runs real database servers for tests, on disks that can be frozen and copied: loop devices with ext4
// below the test's own folder. Everything listens on unix sockets alone, is stopped by its number, and is unmounted and
// thawed also where the test fails. Tests skip, with the reason, where a program or the right is missing.
package appstest
