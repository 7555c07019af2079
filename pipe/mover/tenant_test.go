package mover

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// The secret is made once, by whoever comes first; the keys of tenants follow from it and tell them apart.
func TestTenantSecret(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var wg sync.WaitGroup
	secrets := make([][32]byte, 8)
	for i := range secrets {
		wg.Go(func() {
			ts, err := openTenants(dir)
			if err != nil {
				t.Error(err)
				return
			}
			secrets[i] = ts.secret
		})
	}
	wg.Wait()
	for _, s := range secrets {
		require.Equal(t, secrets[0], s)
	}
	require.NotEqual(t, [32]byte{}, secrets[0])
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "something was left lying about")
	info, err := entries[0].Info()
	require.NoError(t, err)
	require.Zero(t, info.Mode().Perm()&0o077)

	ts := &tenants{secret: secrets[0]}
	seen := map[[32]byte]bool{}
	for _, name := range []string{"a", "b", "ab"} {
		for _, purpose := range []string{"ids", "known"} {
			seen[ts.derive(purpose, name)] = true
		}
	}
	require.Len(t, seen, 6)

	require.NoError(t, os.WriteFile(filepath.Join(dir, secretFile), []byte("short"), 0o600))
	_, err = openTenants(dir)
	require.ErrorContains(t, err, secretFile, "a damaged secret is not replaced in silence")
}

// A tenant's table is one for all its sessions, and closed when nobody has used it for a while.
func TestTenantLife(t *testing.T) {
	t.Parallel()
	ts, err := openTenants(t.TempDir())
	require.NoError(t, err)
	a, err := ts.open("a")
	require.NoError(t, err)
	b, err := ts.open("a")
	require.NoError(t, err)
	require.Same(t, a, b)
	require.NoError(t, a.known.add(numbered(1), numbered(2)))
	ts.release(a)
	require.NoError(t, ts.sweep(time.Now().Add(time.Hour)))
	require.Len(t, ts.byName, 1)
	ts.release(b)
	require.NoError(t, ts.sweep(time.Now()))
	require.Len(t, ts.byName, 1)
	require.NoError(t, ts.sweep(time.Now().Add(idleTenant+time.Second)))
	require.Empty(t, ts.byName)
	c, err := ts.open("a")
	require.NoError(t, err)
	_, ok := c.known.lookup(numbered(1))
	require.True(t, ok)
	require.NoError(t, ts.close())
}

// No name leads an append peer out of its own part of the repository.
func TestNamesThatEscape(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	img := pipetest.Bytes(chacha(1, testBlock))
	others := mustBackup(t, p.client("db", trust.Append), "vm", img, nil)
	bare := mustBackup(t, p.repo, "web", img, nil)
	prefixed := mustBackup(t, p.repo, "web2/vm", img, nil)
	before := pointIDs(t, p)

	h := p.session("web", trust.Append, nil)
	call := uint64(0)
	next := func() uint64 { call++; return call }
	for _, vm := range []string{
		"", ".", "..", "../db/vm", "a/b", "db/vm", "/vm", "vm/", `a\b`, `..\db\vm`, "a\x00b", "\x00", "a\nb", "a\u0085b", strings.Repeat("x", 252),
	} {
		fails(t, h, next(), wire.CodeInvalid, &wire.Begin{VM: vm})
		if vm != "" {
			fails(t, h, next(), wire.CodeInvalid, &wire.Points{VM: vm})
		}
	}
	for _, vm := range []string{"db", "web", "web2", "VM", "*", "vm@latest", strings.Repeat("x", 251)} {
		require.Empty(t, do[*wire.PointList](t, h, next(), &wire.Points{VM: vm}).Points, vm)
	}
	require.Empty(t, do[*wire.PointList](t, h, next(), &wire.Points{}).Points)
	// Another's point is as one that there is not: by its id, by a prefix of it, by the words that people use.
	var said []string
	for _, id := range []string{others, bare, prefixed, others[:8], "db/vm@latest", "vm@latest", strings.Repeat("0", 32), "x"} {
		f := fails(t, h, next(), wire.CodeNotFound, &wire.OpenDisk{Point: id, Disk: "disk0"})
		said = append(said, strings.ReplaceAll(f.Text, id, ""))
		g := fails(t, h, next(), wire.CodeNotFound, &wire.Begin{VM: "vm", Base: id})
		said = append(said, strings.TrimPrefix(strings.ReplaceAll(g.Text, id, ""), "base: "))
	}
	for _, s := range said {
		require.Equal(t, said[0], s)
	}
	require.Equal(t, before, pointIDs(t, p))

	// Two peers may call their VMs alike.
	own := mustBackup(t, p.client("web", trust.Append), "vm", img, nil)
	require.Len(t, do[*wire.PointList](t, h, next(), &wire.Points{VM: "vm"}).Points, 1)
	i := do[*wire.ImageOpened](t, h, next(), &wire.OpenDisk{Point: own, Disk: "disk0"})
	require.True(t, i.Extents)
	require.NotEmpty(t, do[*wire.ExtentList](t, h, next(), &wire.ImageExtents{Image: i.Image, Len: testBlock}).Extents)
	fails(t, h, next(), wire.CodeForbidden, &wire.ReadImage{Image: i.Image, Len: 1})
	fails(t, h, next(), wire.CodeForbidden, &wire.ReadBlob{Point: own, Name: "config", Len: 1})
}

func pointIDs(t *testing.T, p *place) (ids []string) {
	for point, err := range p.repo.Points(t.Context(), "") {
		require.NoError(t, err)
		ids = append(ids, point.ID)
	}
	return ids
}

// A backend that cannot look points up by their id is walked through, with the same answers.
func TestFindWithoutResolve(t *testing.T) {
	t.Parallel()
	p := newPlace(t, func(h *host) { h.backend = struct{ pipe.Backend }{h.backend} })
	img := pipetest.Bytes(chacha(1, testBlock))
	c := p.client("web", trust.Append)
	own := mustBackup(t, c, "vm", img, nil)
	others := mustBackup(t, p.client("db", trust.Append), "vm", img, nil)
	i, err := c.Open(t.Context(), own, "disk0")
	require.NoError(t, err)
	require.NoError(t, i.Close())
	_, err = c.Open(t.Context(), others, "disk0")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
