package scm_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/smbchannel/scm"
	"github.com/hikae/hikae/guest/smbchannel/scm/scmtest"
)

// message is one of testdata/vectors.txt.
type message struct {
	name  string
	to    bool // the machine
	bytes []byte
}

func vectors(t testing.TB) (list []message) {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.txt")
	require.NoError(t, err)
	for n, line := range strings.Split(string(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		switch line = strings.TrimSpace(line); {
		case line == "":
		case line[0] == '>' || line[0] == '<':
			list = append(list, message{name: strings.TrimSpace(line[1:]), to: line[0] == '>'})
		default:
			b, err := hex.DecodeString(strings.ReplaceAll(line, " ", ""))
			require.NoError(t, err, "line %d", n+1)
			list[len(list)-1].bytes = append(list[len(list)-1].bytes, b...)
		}
	}
	require.NotEmpty(t, list)
	return list
}

// script is a pipe that takes exactly what the vectors say and answers what they say.
type script struct {
	left []message
	in   bytes.Buffer
}

func (s *script) Write(p []byte) (int, error) {
	if len(s.left) == 0 || !s.left[0].to {
		return 0, fmt.Errorf("nothing was to come: %x", p)
	}
	if m := s.left[0]; !bytes.Equal(m.bytes, p) {
		return 0, fmt.Errorf("%s:\nwant %x\ngot  %x", m.name, m.bytes, p)
	}
	for s.left = s.left[1:]; len(s.left) > 0 && !s.left[0].to; s.left = s.left[1:] {
		s.in.Write(s.left[0].bytes)
	}
	return len(p), nil
}

func (s *script) Read(p []byte) (int, error) { return s.in.Read(p) }
func (s *script) Close() error               { return nil }

var vectorService = scm.Service{Name: "hikae-7", Display: "Hikae", Command: `"C:\a b\x.exe" p`}

// R126: what the client writes is what the standards say, byte for byte.
func TestVectorsClient(t *testing.T) {
	s := &script{left: vectors(t)}
	m, err := scm.Open(t.Context(), func(context.Context) (io.ReadWriteCloser, error) { return s, nil })
	require.NoError(t, err)
	require.NoError(t, m.Create(t.Context(), vectorService))
	require.Empty(t, s.left, "all of it was said")
	require.NoError(t, m.Close())
}

// The fake answers to what the standards say with what the standards say.
func TestVectorsFake(t *testing.T) {
	ours, its := net.Pipe()
	var machine scmtest.Machine
	done := make(chan error, 1)
	go func() { done <- machine.Serve(its) }()
	for _, m := range vectors(t) {
		if m.to {
			_, err := ours.Write(m.bytes)
			require.NoError(t, err)
			continue
		}
		got := make([]byte, len(m.bytes))
		_, err := io.ReadFull(ours, got)
		require.NoError(t, err, m.name)
		require.Equal(t, hex.EncodeToString(m.bytes), hex.EncodeToString(got), m.name)
	}
	require.NoError(t, ours.Close())
	require.NoError(t, <-done)
	require.Equal(t, map[string]string{vectorService.Name: vectorService.Command}, machine.Services())
}
