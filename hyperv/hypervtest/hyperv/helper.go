package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"

	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// serveHelper is what the host's service control manager starts: the helper's server, on the host's VSS. A program for Windows, which
// is what was uploaded, does not run here. Its book lies on the host's own C:, where leftovers are looked for.
func serveHelper(h *hypervtest.Host) func(ctx context.Context, path string, args []string, stream io.ReadWriteCloser) int {
	book := &requester.DirBook{Dir: filepath.Join(h.Dir(), "C", "Windows", "hikae-sets")}
	return func(ctx context.Context, _ string, _ []string, stream io.ReadWriteCloser) int {
		if stream == nil {
			return 2
		}
		err := requester.Serve(ctx, stream, h.VSS(), &requester.Options{Product: "hikae-hyperv of the fake", Host: h.Name(), Book: book})
		if err != nil && !errors.Is(err, io.EOF) {
			return 1
		}
		return 0
	}
}
