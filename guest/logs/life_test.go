package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/pipe"
)

func logNames(logs []Log) (all []string) {
	for _, l := range logs {
		all = append(all, l.Name)
	}
	return all
}

// A VM that is put back to its image writes other WAL under the names of before: nothing of it counts as stored before it
// is, and what is stored of both lives is two chains.
func TestPutBack(t *testing.T) {
	g, m := &guest{}, &memory{}
	s := New(g.opener, m, nil)
	g.write(10, noon)
	s.Image(image("one", true))
	_, err := s.Collect(t.Context(), "web")
	require.NoError(t, err)

	later := noon.Add(time.Hour)
	other := func(l wire.Log) []byte { return bytes.Repeat([]byte{'y'}, int(l.Size)) }
	g.logs, g.shipped, g.bytes = nil, nil, other
	for n := int64(5); n <= 7; n++ {
		g.logs = append(g.logs, wire.Log{Name: record.SegmentName("00000001", n, segment), Size: segment, Time: later.Format(time.RFC3339Nano), Mark: n == 7})
	}
	m.fail = func(step string) error {
		if step == "commit" {
			return errLink
		}
		return nil
	}
	s.Image(image("two", true))
	_, err = s.Collect(t.Context(), "web")
	require.Error(t, err)
	require.Empty(t, g.shipped, "of another life")
	m.fail = nil
	r, err := s.Collect(t.Context(), "web")
	var gap *GapError
	require.ErrorAs(t, err, &gap)
	require.Contains(t, gap.Words, "begun anew")
	require.Equal(t, 3, r.Streams[0].Stored)
	require.Len(t, g.shipped, 3)
	stored := m.all()
	require.Len(t, stored, 13)
	for _, l := range stored[10:] {
		require.EqualValues(t, 1, l.Life)
		require.Equal(t, sumOf(other(wire.Log{Size: segment})), l.SHA256)
	}
	_, err = s.Collect(t.Context(), "web")
	require.NoError(t, err, "told once")
	require.Len(t, m.all(), 13)

	five := stored[4].Name
	old, gap, err := ChainSince(t.Context(), m, cluster, "00000001", five, noon)
	require.NoError(t, err)
	require.Equal(t, logNames(stored[4:10]), logNames(old))
	require.Equal(t, five, gap.Before)
	now, gap, err := ChainSince(t.Context(), m, cluster, "00000001", five, noon.Add(time.Minute))
	require.NoError(t, err)
	require.Nil(t, gap)
	require.Equal(t, stored[10:], now)
	none, gap, err := Chain(t.Context(), m, cluster, "00000001", five)
	require.NoError(t, err)
	require.Empty(t, none, "which of the two, only the image's time tells")
	require.ErrorContains(t, gap, "several lives")
}

// RESET MASTER: numbers begin anew, with other sizes or without; logs go on in a new life.
func TestResetGoesOn(t *testing.T) {
	m := &memory{logs: []Log{{Name: "binlog.000001", Timeline: "00000001", Size: 77, Container: "old"}}}
	g := &guest{}
	for n := range 2 {
		g.logs = append(g.logs, wire.Log{Name: fmt.Sprintf("binlog.%06d", n+1), Size: 99, Time: noon.Format(time.RFC3339Nano), Mark: true})
	}
	s := New(g.opener, m, nil)
	s.Image(image("new", true))
	_, err := s.Collect(t.Context(), "web")
	require.ErrorContains(t, err, "begun anew")
	_, err = s.Collect(t.Context(), "web")
	require.NoError(t, err)
	require.Equal(t, []string{"binlog.000001", "binlog.000001", "binlog.000002"}, m.names())
}

// What keeps logs was made anew in a VM that was put back to before it: the next number says nothing.
func TestMadeAnew(t *testing.T) {
	g, m := &guest{anew: true}, &memory{}
	g.write(2, noon)
	s := collector(g, m)
	_, err := s.Collect(t.Context(), "web")
	require.NoError(t, err, "nothing is stored that they could have to continue")
	g.write(2, noon)
	g.logs = g.logs[1:]
	_, err = s.Collect(t.Context(), "web")
	require.ErrorContains(t, err, "made anew")
	require.EqualValues(t, 1, m.all()[2].Life)
}

// A chain goes forward in the order of storing, and ends at any gap.
func TestChainOfTwoLives(t *testing.T) {
	m := &memory{}
	for _, n := range []string{"5", "6", "7", "1", "2", "3", "4"} {
		l := Log{Name: "binlog.00000" + n, Timeline: "binlog", Size: 10}
		if n == "1" {
			l.Gap = "a gap in the logs after binlog.000007 before binlog.000001: reset"
		}
		m.logs = append(m.logs, l)
	}
	chain, gap, err := Chain(t.Context(), m, cluster, "binlog", "binlog.000003")
	require.NoError(t, err)
	require.Nil(t, gap)
	require.Equal(t, []string{"binlog.000003", "binlog.000004"}, logNames(chain))
	chain, gap, err = Chain(t.Context(), m, cluster, "binlog", "binlog.000005")
	require.NoError(t, err)
	require.Len(t, chain, 3)
	require.Equal(t, "reset", gap.Words)
	m.logs[5].Gap = "x" // in a row of numbers
	chain, gap, err = Chain(t.Context(), m, cluster, "binlog", "binlog.000001")
	require.NoError(t, err)
	require.Len(t, chain, 2)
	require.Equal(t, "binlog.000003", gap.Before)
}

// A log that is too long to be stored is left out and told; the others go on.
func TestHugeLog(t *testing.T) {
	g, m := &guest{}, &memory{}
	g.write(3, noon)
	g.logs[1].Size = maxLog + 1
	_, err := collector(g, m).Collect(t.Context(), "web")
	require.ErrorContains(t, err, g.logs[0].Name[:20])
	require.ErrorContains(t, err, "at most 4294967296 are stored")
	require.Len(t, m.names(), 2)
	require.NotContains(t, g.shipped, record.SegmentName("00000001", 2, segment))
	require.NotEmpty(t, m.all()[1].Gap)
}

// rotten is a backend one of whose batches cannot be read, behind one listing error.
type rotten struct {
	pipe.Backend
	good string
}

var errRot = errors.New("bit rot")

func (rotten) Points(context.Context, string) iter.Seq2[pipe.PointInfo, error] {
	return func(yield func(pipe.PointInfo, error) bool) {
		for _, id := range []string{"", "bad", "good"} {
			var err error
			if id == "" {
				err = errRot
			}
			if !yield(pipe.PointInfo{ID: id, Time: noon, Facts: map[string]string{"logs": "postgresql/main"}}, err) {
				return
			}
		}
	}
}

func (r rotten) OpenBlob(_ context.Context, id, _ string) (io.ReadCloser, error) {
	if id == "bad" {
		return nil, errRot
	}
	return io.NopCloser(bytes.NewReader([]byte(r.good))), nil
}

func TestOneBadBatchStopsNothing(t *testing.T) {
	p := NewPoints(rotten{good: `{"version":1,"stream":{"vm":"web","kind":"postgresql","name":"main"},"container":"c","logs":[` +
		`{"name":"x","timeline":"t","size":1,"sha256":"` + fmt.Sprintf("%064x", 1) + `","time":"2026-11-22T12:00:00Z","mark":false}]}`})
	var found []string
	var damaged *BatchError
	for l, err := range p.Logs(t.Context(), cluster) {
		if !errors.As(err, &damaged) && err == nil {
			require.Equal(t, noon, l.Stored)
			found = append(found, l.Name)
		}
	}
	require.Equal(t, []string{"x"}, found)
	require.Equal(t, "bad", damaged.Batch)
	var streams []Stream
	for st := range p.Streams(t.Context(), "web") {
		streams = append(streams, st)
	}
	require.True(t, slices.Contains(streams, cluster))
}

// torn is a store whose last batch cannot be read.
type torn struct{ *memory }

func (s torn) Logs(ctx context.Context, st Stream) iter.Seq2[Log, error] {
	return func(yield func(Log, error) bool) {
		for i, l := range s.all() {
			if i == 2 && !yield(Log{}, &BatchError{st, "torn", errRot}) || !yield(l, nil) {
				return
			}
		}
		if len(s.all()) == 2 {
			yield(Log{}, &BatchError{st, "torn", errRot})
		}
	}
}

// Behind a last batch that cannot be read begins a new life: who knows what that one began.
func TestDamageAtTheEnd(t *testing.T) {
	g, m := &guest{}, &memory{}
	g.write(2, noon)
	s := New(g.opener, torn{m}, nil)
	s.Image(image("one", true))
	_, err := s.Collect(t.Context(), "web")
	require.NoError(t, err)
	g.write(1, noon)
	_, err = s.Collect(t.Context(), "web")
	require.ErrorContains(t, err, "the last batch that is stored cannot be read")
	require.EqualValues(t, 2, m.all()[2].Life)
	_, err = s.Collect(t.Context(), "web")
	require.NoError(t, err, "the stream goes on")
	chain, gap, err := Chain(t.Context(), torn{m}, cluster, "00000001", m.all()[0].Name)
	require.NoError(t, err)
	require.Len(t, chain, 2)
	require.NotNil(t, gap)
}
