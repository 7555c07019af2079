package helper

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/hyperv/vhdx"
)

// atHost starts a helper on a fake host, and speaks to it.
func atHost(t *testing.T, h *hypervtest.Host) *Requester {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	book := &requester.DirBook{Dir: filepath.Join(t.TempDir(), "book")}
	go func() {
		ended <- requester.Serve(context.WithoutCancel(t.Context()), theirs, h.VSS(), &requester.Options{Host: "HV1", Book: book})
	}()
	r, err := Dial(t.Context(), ours, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, r.Close())
		require.NoError(t, <-ended)
		h.Close()
		require.NoDirExists(t, book.Dir)
	})
	return r
}

const diskSize = 4 << 20

func startGeneration(t *testing.T, generation string, opts hypervtest.VSSOptions, format string) (*hypervtest.Host, *hypervtest.Guest) {
	t.Helper()
	h, err := hypervtest.Start(&hypervtest.Options{Generation: generation, Dir: t.TempDir()})
	require.NoError(t, err)
	h.SetVSS(opts)
	g := h.VM(h.AddVM(hypervtest.VM{Name: "web1", Disks: []hypervtest.Disk{{Size: diskSize, Format: format}}}))
	for off := int64(0); off < diskSize; off += 1 << 20 {
		require.NoError(t, g.Write(0, off, []byte("as it was before")))
	}
	return h, g
}

// R037, R041, R101: the same request in each generation's own way; what is read through the helper is the guest's disk at its freeze,
// while it goes on writing (R035).
func TestGenerations(t *testing.T) {
	for _, generation := range []string{"2008r2", "2012", "2012r2", "2016", "2022"} {
		t.Run(generation, func(t *testing.T) {
			format := "vhdx"
			if generation == "2008r2" {
				format = "vhd"
			}
			h, g := startGeneration(t, generation, hypervtest.VSSOptions{}, format)
			r := atHost(t, h)
			stop := g.Churn(1)
			defer stop()
			list, err := r.Components(t.Context())
			require.NoError(t, err)
			require.Len(t, list, 1)
			require.Equal(t, hyperv.MethodOnline, list[0].Method, list[0].Caption)
			set, err := r.Take(t.Context(), hyperv.SetRequest{Mark: strings.ToLower(rand.Text()), VMs: []string{g.ID()}})
			require.NoError(t, err)
			o := set.Outcome(g.ID())
			require.NoError(t, o.Err)
			require.Equal(t, generation == "2008r2" || generation == "2012" || generation == "2012r2", o.Recovered, "%+v", o)
			same(t, set, o.Files, g)
			require.NoError(t, set.Finish(t.Context(), map[string]bool{g.ID(): true}))
			same(t, set, o.Files, g)
			require.NoError(t, set.Delete(t.Context()))
		})
	}
}

// same compares the disk of a set with the guest's at its freeze. On 2012 R2 the consistent one is the child that was recovered.
func same(t *testing.T, set hyperv.Set, files []string, g *hypervtest.Guest) {
	t.Helper()
	at := slices.IndexFunc(files, func(f string) bool { return strings.HasSuffix(strings.ToLower(f), "-autorecovery.avhdx") })
	if at < 0 {
		at = slices.IndexFunc(files, func(f string) bool {
			ext := strings.ToLower(filepath.Ext(f))
			return ext == ".vhdx" || ext == ".vhd"
		})
	}
	require.GreaterOrEqual(t, at, 0, files)
	disk, err := vhdx.OpenIn(t.Context(), set, files[at], nil)
	require.NoError(t, err)
	defer disk.Close()
	got, want := make([]byte, diskSize), make([]byte, diskSize)
	_, err = disk.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	_, err = g.AtFreeze(0).ReadAt(want, 0)
	require.True(t, err == nil || err == io.EOF)
	require.True(t, string(got) == string(want), "another content than at the freeze")
}

// R061: auto-recovery that takes its time is waited for, and one that fails is told with its reason, and nothing is left of it.
func TestSlowRecovery(t *testing.T) {
	h, g := startGeneration(t, "2012", hypervtest.VSSOptions{Recover: 600 * time.Millisecond}, "")
	r := atHost(t, h)
	q := hyperv.SetRequest{Mark: strings.ToLower(rand.Text()), VMs: []string{g.ID()}}
	began := time.Now()
	set, err := r.Take(t.Context(), q)
	require.NoError(t, err)
	require.Greater(t, time.Since(began), 600*time.Millisecond)
	require.NoError(t, set.Delete(t.Context()))
	h.Fail(hypervtest.Fault{Event: "recover", Code: 1, Reason: "the disk could not be mounted"})
	_, err = r.Take(t.Context(), q)
	require.ErrorIs(t, err, ErrWriter)
	require.ErrorContains(t, err, "HV1")
}
