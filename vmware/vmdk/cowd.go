package vmdk

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/hikae/hikae/pipe"
)

// What ESXi writes deltas in on VMFS 5 and NFS, as vmfsSparse.
//
//	0 "COWD"   4 version u32   8 flags u32   12 capacity u32   16 grain u32   20 directory u32   24 its entries u32
//	28 next free u32           all in sectors, little-endian; tables have 4096 entries
const (
	cowdMagic    = "COWD"
	cowdPerTable = 4096
)

func openCOWD(ctx context.Context, path string, file pipe.Image, c *cache) (*grains, error) {
	b := make([]byte, 32)
	if file.Size() < headerLen {
		return nil, &CorruptError{Path: path, Reason: "it ends within its header"}
	}
	if err := readFull(ctx, file, b, 0); err != nil {
		return nil, fmt.Errorf("%s: header: %w", path, err)
	}
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
	switch {
	case string(b[:4]) != cowdMagic:
		return nil, &CorruptError{Path: path, Reason: "there is no header of a COWD extent"}
	case u32(4) != 1:
		return nil, &UnsupportedError{Path: path, Feature: fmt.Sprintf("COWD version %d", u32(4))}
	}
	g := &grains{
		path: path, file: file, cache: c, size: u32(12) * sector, grain: u32(16) * sector, perTable: cowdPerTable, entry: 4,
		dir: u32(20) * sector, coder: hostedCoder(0),
	}
	if err := g.check(); err != nil {
		return nil, err
	}
	if u32(24) < g.tables() {
		return nil, g.corrupt(24, "a directory of %d entries for %d tables", u32(24), g.tables())
	}
	return g, nil
}
