//go:build unix

package main

import (
	"fmt"
	"os"
	"syscall"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

// sameOwner sees that the account that has one folder can read the other; give gives it to that account.
func sameOwner(data, wal string, give bool) error {
	of, err := os.Stat(data)
	if err != nil {
		return err
	}
	at, err := os.Stat(wal)
	if err != nil {
		return err
	}
	owner, ok := of.Sys().(*syscall.Stat_t)
	has, ok2 := at.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !ok2 || owner.Uid == has.Uid:
		return nil
	case give && os.Geteuid() == 0:
		return os.Lchown(wal, int(owner.Uid), int(owner.Gid))
	}
	return &outcome.Error{Kind: outcome.KindPermission, Object: wal, Text: fmt.Sprintf("the folder belongs to account %d, and the cluster to %d", has.Uid, owner.Uid),
		Hint: "The server reads the logs as its own account: give the folder to it with chown, or run this as that account."}
}
