package nbd_test

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
	"github.com/hikae/hikae/pipe/pipetest"
)

// nbdinfo sees what the server offers, and the map that the image has.
func TestServerWithNbdinfo(t *testing.T) {
	needs(t, "nbdinfo")
	src := pipetest.NewPattern(1, 4<<20, pipe.Extent{Len: 1 << 20, Kind: pipe.Data},
		pipe.Extent{Off: 1 << 20, Len: 2 << 20, Kind: pipe.Zero}, pipe.Extent{Off: 3 << 20, Len: 1 << 20, Kind: pipe.Data})
	uri := serve(t, nil, nbd.Export{Name: "disk0", Description: "first", Image: src}, nbd.Export{Name: "disk1", Image: src})
	var info struct {
		Protocol   string
		Structured bool
		Exports    []map[string]any
	}
	require.NoError(t, json.Unmarshal([]byte(run(t, "nbdinfo", "--json", "--list", uri(""))), &info))
	require.Equal(t, "newstyle-fixed", info.Protocol)
	require.True(t, info.Structured)
	require.Len(t, info.Exports, 2)
	e := info.Exports[0]
	require.Equal(t, "disk0", e["export-name"])
	require.Equal(t, "first", e["description"])
	require.Equal(t, []any{"base:allocation"}, e["contexts"])
	require.Equal(t, true, e["is_read_only"])
	require.Equal(t, true, e["can_multi_conn"])
	var ranges []struct{ Offset, Length, Type int64 }
	require.NoError(t, json.Unmarshal([]byte(run(t, "nbdinfo", "--json", "--map", uri("disk1"))), &ranges))
	require.Equal(t, []struct{ Offset, Length, Type int64 }{{0, 1 << 20, 0}, {1 << 20, 2 << 20, 3}, {3 << 20, 1 << 20, 0}}, ranges)
}

// nbdcopy and qemu-img read the same bytes as the image has.
func TestServerIsReadByPeers(t *testing.T) {
	src := sparse(2, 12<<20)
	uri := serve(t, nil, nbd.Export{Name: "disk0", Image: src})
	want := fileOf(t, src)
	t.Run("nbdcopy", func(t *testing.T) {
		needs(t, "nbdcopy", "cmp")
		for _, args := range [][]string{{}, {"--connections=4", "--requests=64"}, {"--request-size=33554432", "--connections=1"}} {
			got := filepath.Join(t.TempDir(), "got.raw")
			run(t, "nbdcopy", append(args, uri("disk0"), got)...)
			run(t, "cmp", want, got)
		}
	})
	t.Run("qemu-img", func(t *testing.T) {
		needs(t, "qemu-img")
		require.Contains(t, run(t, "qemu-img", "info", uri("disk0")), "12 MiB (12582912 bytes)")
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", want, uri("disk0"))
		got := filepath.Join(t.TempDir(), "got.qcow2")
		run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri("disk0"), got)
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", want, got)
		var ranges []struct {
			Start, Length int64
			Zero          bool
		}
		require.NoError(t, json.Unmarshal([]byte(run(t, "qemu-img", "map", "--output=json", "-f", "raw", uri("disk0"))), &ranges))
		zero := int64(0)
		for _, r := range ranges {
			if r.Zero {
				zero += r.Length
			}
		}
		require.Positive(t, zero, "qemu-img is told of the zeros")
	})
	t.Run("a write is refused", func(t *testing.T) {
		needs(t, "qemu-io")
		require.Contains(t, run(t, "qemu-io", "-f", "raw", "-r", "-c", "read 0 64k", uri("disk0")), "read 65536/65536 bytes at offset 0")
		out, err := exec.CommandContext(t.Context(), "qemu-io", "-f", "raw", "-c", "write 0 512", uri("disk0")).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "Permission denied")
	})
}

// qemu-io writes, zeroes, discards and flushes an overlay; what is read back is what a file would have, and the base is
// as it was.
func TestServerIsWrittenByPeers(t *testing.T) {
	needs(t, "qemu-io", "qemu-img")
	base := sparse(3, 8<<20+512)
	scratch := filepath.Join(t.TempDir(), "scratch")
	disk, err := nbd.OpenOverlay(scratch, base, &nbd.OverlayOptions{Identity: "point 1"})
	require.NoError(t, err)
	uri := serve(t, nil, nbd.Export{Image: disk})
	want := fileOf(t, base)
	commands := []string{
		"write -P 1 0 512", "write -P 2 65000 2000", "write -P 3 1m 3m", "write -z 2m 100k", "write -z -u 3m 64k", "write -f -P 4 3100k 1k",
		"write -P 5 8388608 512", "flush", "aio_write -P 6 5m 64k", "aio_write -P 7 6m 64k", "aio_flush", "write -P 9 100000 1", "write -z 130000 1",
	}
	args := []string{"-f", "raw", "-t", "writeback"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	run(t, "qemu-io", append(args, want)...)
	run(t, "qemu-io", append(args, uri(""))...)
	require.Contains(t, run(t, "qemu-io", "-f", "raw", "-d", "unmap", "-c", "discard 7m 128k", "-c", "read -P 0 7m 128k", uri("")), "read 131072/131072")
	run(t, "qemu-io", "-f", "raw", "-c", "write -z 7m 128k", want)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", want, uri(""))
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", fileOf(t, base), serve(t, nil, nbd.Export{Image: base})(""))

	require.NoError(t, disk.Close())
	again, err := nbd.OpenOverlay(scratch, base, &nbd.OverlayOptions{Identity: "point 1"})
	require.NoError(t, err)
	defer again.Close()
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", want, serve(t, nil, nbd.Export{Image: again})(""))
}

// nbdcopy writes a whole disk into an overlay over nothing.
func TestServerIsFilledByNbdcopy(t *testing.T) {
	needs(t, "nbdcopy", "cmp")
	src := sparse(4, 12<<20)
	disk, err := nbd.OpenOverlay(filepath.Join(t.TempDir(), "scratch"), pipe.NewMemory(src.Size()), nil)
	require.NoError(t, err)
	defer disk.Close()
	uri := serve(t, nil, nbd.Export{Image: disk})
	file := fileOf(t, src)
	run(t, "nbdcopy", "--flush", file, uri(""))
	pipetest.TestImage(t, disk, src)
	t.Run("a write of 32 MiB in one request", func(t *testing.T) {
		big := sparse(5, 32<<20)
		disk, err := nbd.OpenOverlay(filepath.Join(t.TempDir(), "scratch"), pipe.NewMemory(big.Size()), nil)
		require.NoError(t, err)
		defer disk.Close()
		uri := serve(t, &nbd.ServerOptions{BytesInFlight: 2 << 20}, nbd.Export{Image: disk})
		run(t, "nbdcopy", "--request-size=33554432", fileOf(t, big), uri(""))
		diff, err := pipe.Compare(t.Context(), disk, big, nil)
		require.NoError(t, err)
		require.Empty(t, diff)
	})
}

// TLS with client certificates, both ways: our server to gnutls clients, and a client without certificate stays out.
func TestServerTLS(t *testing.T) {
	needs(t, "nbdcopy", "nbdinfo", "qemu-img")
	t.Run("ECDSA", func(t *testing.T) { testServerTLS(t, certificates(t)) })
	t.Run("RSA", func(t *testing.T) { testServerTLS(t, rsaCertificates(t)) })
}

func testServerTLS(t *testing.T, certs string) {
	config, err := nbd.ServerTLS(certs)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	src := sparse(6, 3<<20)
	ended := make(chan error, 100)
	serveOn(t, l, &nbd.ServerOptions{TLS: config, Ended: func(_ net.Addr, err error) { ended <- err }}, nbd.Export{Name: "d", Image: src})
	uri := "nbds://" + l.Addr().String() + "/d?tls-certificates=" + certs
	require.Contains(t, run(t, "nbdinfo", uri), "with TLS")
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	require.Contains(t, run(t, "qemu-img", "info", "--object", "tls-creds-x509,id=tls0,endpoint=client,dir="+certs,
		"--image-opts", "driver=nbd,host=localhost,port="+port+",export=d,tls-creds=tls0"), "3 MiB")
	got := filepath.Join(t.TempDir(), "got.raw")
	run(t, "nbdcopy", uri, got)
	b, err := os.ReadFile(got)
	require.NoError(t, err)
	pipetest.TestImage(t, pipetest.Bytes(b), src)
	pipetest.TestImage(t, dial(t, uri, nil), src) // our own client

	_, err = nbd.Dial(t.Context(), "nbd://"+l.Addr().String()+"/d", nil)
	require.ErrorIs(t, err, nbd.ErrTLS)
	bare := t.TempDir() // it has the authority, and no certificate of its own
	ca, err := os.ReadFile(filepath.Join(certs, "ca-cert.pem"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(bare, "ca-cert.pem"), ca, 0o600))
	_, err = nbd.Dial(t.Context(), "nbds://"+l.Addr().String()+"/d?tls-certificates="+bare, nil)
	require.Error(t, err)
	_, err = nbd.Dial(t.Context(), "nbds://"+l.Addr().String()+"/d?tls-certificates="+certificates(t), nil)
	require.ErrorContains(t, err, "unknown authority")
}
