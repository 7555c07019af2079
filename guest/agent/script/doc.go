// Package script runs what a guest's administrator put into the conventional places, before a freeze and after a thaw.
//
// # Places
//
//	/etc/hikae/freeze.d/*                        our own
//	/etc/vmware-tools/backupScripts.d/*          those of open-vm-tools
//	/etc/qemu/fsfreeze-hook.d/*                  those of QEMU's guest agent
//	/usr/sbin/pre-freeze-script, post-thaw-script  the oldest: they get no argument
//
// Those in folders get one argument: freeze before, thaw after, freezeFail where the freeze came to nothing. They run in
// the order of their names before a freeze and in the reverse order after it. Hooks of QEMU's guest agent know freeze and
// thaw only, so they get thaw for freezeFail.
//
// # Rules
//
// A script is run as root, so only root may have written it: it, and the folders above it, belong to root and nobody else
// can write to them. What is otherwise is not run; before a freeze that is a veto, as is a script that ends with anything
// but 0 or runs longer than its limit: its administrator wanted something done before the freeze, and it was not.
// Its process group is killed then. Of what it prints 16 KiB are kept. A folder that cannot be read is a veto, too. Files
// in folders that nobody may execute, and those that editors and package managers leave, are no scripts.
//
// The Windows places come with package guest/agent's program for that system.
package script
