//go:build linux

package kvmtest

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
)

// MakeExt4 makes a raw file with an empty ext4 file system on the whole disk.
func MakeExt4(ctx context.Context, path string, size int64) error {
	return run(ctx, "mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
		path, strconv.FormatInt(size>>10, 10)+"k")
}

func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
