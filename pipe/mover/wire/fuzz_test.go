package wire_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/wire"
)

var writeSeeds = flag.Bool("write-seeds", false, "write the seeds of FuzzDecode and FuzzReader anew")

// corpora are the folders of seeds, and what stands in each by name.
func corpora(t testing.TB) map[string]map[string][]byte {
	b := protocol(t)
	decode, stream := map[string][]byte{}, map[string][]byte{}
	for i, k := range wire.Kinds() {
		payload := b.payload(full(t, b, k), nil)
		decode[k.String()] = append([]byte{byte(k)}, payload...)
		some := fmt.Sprintf("frames-%02d", i/4)
		stream[some] = append(stream[some], frame(k, callOf(k), payload)...)
	}
	decode["hello-of-version-2"] = append([]byte{byte(wire.KindHello)}, "HIKAE-MV\x00\x02and more"...)
	decode["unknown"] = []byte{255, 1, 2, 3}
	stream["cut"] = stream["frames-00"][:len(stream["frames-00"])-3]
	stream["announced"] = frame(wire.KindWrite, 1, make([]byte, 300<<10))[:100]
	stream["too-long"] = append([]byte{0x80, 0, 0, 0}, stream["frames-05"][4:]...)
	return map[string]map[string][]byte{"FuzzDecode": decode, "FuzzReader": stream}
}

// TestCorpora: the seeds are there, and are what the document says; go test -write-seeds makes them anew.
func TestCorpora(t *testing.T) {
	for target, seeds := range corpora(t) {
		dir := filepath.Join("testdata", "fuzz", target)
		for name, seed := range seeds {
			text := fmt.Appendf(nil, "go test fuzz v1\n[]byte(%q)\n", seed)
			file := filepath.Join(dir, name)
			if *writeSeeds {
				require.NoError(t, os.MkdirAll(dir, 0o755))
				require.NoError(t, os.WriteFile(file, text, 0o644))
			}
			got, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(text), strings.ReplaceAll(string(got), "\r\n", "\n"), file)
		}
	}
}

func requireCorpus(f *testing.F, target string, least int) {
	seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", target, "*"))
	if err != nil || len(seeds) < least {
		f.Fatalf("the corpus is missing: %d seeds, %v", len(seeds), err)
	}
}

// FuzzDecode: the first byte is the kind. Whatever the payload: no panic, an error of the one type, or a message that has
// exactly these bytes.
func FuzzDecode(f *testing.F) {
	requireCorpus(f, "FuzzDecode", len(wire.Kinds()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		k := wire.Kind(b[0])
		m, err := wire.Decode(k, b[1:])
		if err != nil {
			require.ErrorIs(t, err, wire.ErrMalformed)
			return
		}
		require.Equal(t, k, m.Kind())
		require.True(t, bytes.Equal(b[1:], written(t, m)), "%v: %x", k, b[1:])
	})
}

// FuzzReader: whatever the stream, the reader comes to its end, and every frame has exactly the bytes that it was read from.
func FuzzReader(f *testing.F) {
	requireCorpus(f, "FuzzReader", 10)
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		r := wire.NewReader(in)
		for at := 0; ; {
			got, err := r.Read()
			if err != nil {
				require.True(t, err == io.EOF && at == len(b) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, wire.ErrMalformed), "%v", err)
				return
			}
			one, err := wire.Append(nil, got)
			require.NoError(t, err)
			require.True(t, bytes.HasPrefix(b[at:], one), "frame at %d", at)
			at += len(one)
			require.Equal(t, len(b)-at, in.Len(), "the reader reads ahead nothing")
			if at%2 == 0 {
				r.Take()
			}
		}
	})
}
