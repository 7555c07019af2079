package mover

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// stream is messages as they stand on the wire, numbered from 1.
func stream(t testing.TB, messages ...wire.Message) (out []byte) {
	for i, m := range messages {
		var err error
		out, err = wire.Append(out, wire.Frame{Call: uint64(i + 1), Message: m})
		require.NoError(t, err)
	}
	return out
}

// What an enrolled peer may send, in any order and with any fields, neither brings the target down nor takes it long,
// and does nothing to another's points: those are the same afterwards, and still the only ones that are not the peer's.
func FuzzHandler(f *testing.F) {
	data := chacha(1, testBlock)
	unchanged := pipe.Extent{Len: testBlock, Kind: pipe.Unchanged}
	f.Add(stream(f, &wire.Points{}, &wire.Points{VM: "vm", After: "x"}, &wire.Health{}, &wire.Rotate{}, &wire.Enrol{}))
	f.Add(stream(f, &wire.Begin{VM: "vm"}, &wire.StartDisk{Writer: 1, Key: "disk0", Size: testBlock + 512},
		&wire.Query{Disk: 1, IDs: []pipe.ID{{1}, {2}}},
		&wire.Mark{Disk: 1, Extent: pipe.Extent{Len: testBlock, Kind: pipe.Free}},
		&wire.Write{Disk: 1, Off: testBlock, Sum: blake3.Sum256(data[:512]), Plain: 512, Data: data[:512]},
		&wire.SealDisk{Disk: 1}, &wire.Usage{Writer: 1}, &wire.Commit{Writer: 1, Tracking: map[string]string{"disk0": "x"}}))
	f.Add(stream(f, &wire.Begin{VM: "vm", Base: "x"}, &wire.Begin{VM: "vm", Facts: map[string]string{SessionFact: "a"}},
		&wire.StartBlob{Writer: 1, Name: "b"}, &wire.BlobPart{Blob: 1, Data: data[:9]}, &wire.SealBlob{Blob: 1, Size: 9, Sum: blake3.Sum256(data[:9])},
		&wire.StartDisk{Writer: 1, Key: "d", Size: testBlock}, &wire.Mark{Disk: 1, Extent: unchanged},
		&wire.Put{Disk: 1, ID: pipe.ID{3}, Plain: 512, Codec: pipe.Zstd, Content: true, Data: data[:100]},
		&wire.Put{Disk: 1, ID: pipe.ID{3}, Plain: testBlock}, &wire.DropDisk{Disk: 1}, &wire.DropPoint{Writer: 1}))
	f.Add(stream(f, &wire.OpenDisk{Point: "x", Disk: "disk0"}, &wire.ImageExtents{Image: 1, Len: 9}, &wire.ReadImage{Image: 1, Len: 1},
		&wire.CloseImage{Image: 1}, &wire.ReadBlob{Point: "x", Name: "b"}, &wire.Images{}, &wire.StoreOpen{Name: "log/1", Size: 1 << 20}))

	r, err := repo.Init(f.Context(), memstore.New(nil), repo.KeyFile([32]byte{1}), &repo.InitOptions{BlockSize: testBlock},
		&repo.OpenOptions{CacheDir: f.TempDir()})
	require.NoError(f, err)
	f.Cleanup(func() {
		for p, err := range r.Points(context.Background(), "") {
			require.NoError(f, err)
			require.True(f, p.VM == "db/vm" || strings.HasPrefix(p.VM, "web/"), p.VM)
		}
		require.NoError(f, r.Close())
	})
	img := pipetest.Bytes(data)
	others := mustBackup(f, r, "db/vm", img, nil)
	hs, err := newHost(&ServerOptions{Backend: r, StateDir: f.TempDir(), Log: slog.New(slog.DiscardHandler)}, uncared{})
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, hs.close()) })

	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<20 {
			t.Skip("longer than is of use")
		}
		h, err := newHandler(t.Context(), hs, trust.Peer{Name: "web", Role: trust.Append}, func(wire.Message) {})
		require.NoError(t, err)
		defer h.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // a part of a blob may wait for one that never comes
		defer cancel()
		frames := wire.NewReader(bytes.NewReader(in))
		for call := uint64(1); call < 40; call++ {
			f, err := frames.Read()
			if err != nil {
				break
			}
			step, stop := context.WithTimeout(ctx, 20*time.Millisecond)
			answer, err := h.Handle(step, call, f.Message)
			stop()
			if err == nil {
				_, err = wire.Append(nil, wire.Frame{Call: call, Message: answer})
				require.NoError(t, err, "an answer that does not fit the wire")
			}
		}
		require.NoError(t, h.Close())
		for p, err := range r.Points(t.Context(), "db/vm") {
			require.NoError(t, err)
			require.Equal(t, others, p.ID)
		}
		requireSame(t, r, others, img)
	})
}
