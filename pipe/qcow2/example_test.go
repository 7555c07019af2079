package qcow2_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/qcow2"
)

// A disk is written, and what it holds is listed without reading it.
func Example() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	ctx, path := context.Background(), filepath.Join(dir, "disk.qcow2")

	target, err := qcow2.Create(path, 1<<30, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer target.Close() // abandons, unless Commit came first
	if _, err := target.WriteAt(ctx, bytes.Repeat([]byte("data"), 16<<10), 0); err != nil {
		fmt.Println(err)
		return
	}
	if err := target.Commit(ctx); err != nil {
		fmt.Println(err)
		return
	}

	img, err := qcow2.Open(ctx, path, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer img.Close()
	for e, err := range pipe.Extents(ctx, img, 0, img.Size()) {
		fmt.Println(e, err)
	}
	// Output:
	// data [0, 65536) <nil>
	// zero [65536, 1073741824) <nil>
}
