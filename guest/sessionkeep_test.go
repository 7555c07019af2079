package guest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/index"
)

// What the list of files is without is warned of: the first by name, the others as a number.
func TestUnlisted(t *testing.T) {
	s := &Session{}
	s.unlisted(nil)
	require.Empty(t, s.result.Warnings)
	var skipped []string
	for i := range maxUnlisted + 7 {
		skipped = append(skipped, fmt.Sprintf("/f%d: input/output error\xff", i))
	}
	s.unlisted(skipped)
	require.Len(t, s.result.Warnings, maxUnlisted+1)
	require.Contains(t, s.result.Warnings[0], "/f0: input/output error")
	require.Contains(t, s.result.Warnings[maxUnlisted], "7 more")
	require.True(t, strings.HasPrefix(s.result.Warnings[3], "the list of files is not whole"))

	require.Equal(t, "no", whyNot([]string{"/var/x: other", "/var: no"}, "/var"))
	require.Empty(t, whyNot([]string{"/var/x: other"}, "/var"))
}

// partial leaves something out.
type partial struct{ *inside }

func (p partial) Index(ctx context.Context, args wire.IndexArgs, to io.Writer) (wire.IndexAnswer, error) {
	a, err := p.inside.Index(ctx, args, to)
	a.Skipped = []string{"/: the list is as long as it may be", "/srv: input/output error"}
	return a, err
}

// What the component left out is a warning of the session, and stands in the index that is kept.
func TestSessionIndexPartial(t *testing.T) {
	in := newInside()
	in.index = listed(t, 100)
	opts := in.options()
	opts.Indexer = partial{in}
	s, _ := newSession(t, SessionOptions{Index: &wire.IndexArgs{}}, &equipped{&machine{name: "here", in: in, report: linux(SSH)}, opts})
	require.NoError(t, s.Begin(t.Context()))
	var kept []byte
	require.NoError(t, s.Keep(t.Context(), func(name string, r io.Reader) (err error) {
		p, err := io.ReadAll(r)
		if name == index.BlobName {
			kept = p
		}
		return err
	}))
	x, err := index.Open(t.Context(), bytes.NewReader(kept), int64(len(kept)))
	require.NoError(t, err)
	require.Equal(t, "the list is as long as it may be", x.Volumes()[0].Cut)
	_, r := s.Reached()
	require.Contains(t, strings.Join(r.Warnings, "\n"), "/srv: input/output error")
	require.NoError(t, s.Close(t.Context()))
}
