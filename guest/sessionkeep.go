package guest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/index"
)

// Keep hands out what a restore needs: guest/guest.json says what was found and done, guest/records/… are files of
// applications, guest/index is the list of files. It may be called again.
func (s *Session) Keep(ctx context.Context, put func(name string, content io.Reader) error) error {
	if s.skipped != nil || s.deployed == nil {
		return nil
	}
	about, err := json.MarshalIndent(s.about(), "", "\t")
	if err != nil {
		return err
	}
	if err := put("guest/guest.json", bytes.NewReader(append(about, '\n'))); err != nil {
		return err
	}
	for i, r := range s.finish.Records {
		if err := put(recordName(i, r), bytes.NewReader(r.Content)); err != nil {
			return err
		}
	}
	return s.index(ctx, put)
}

// about is guest.json.
func (s *Session) about() any {
	records := map[string]wire.Record{}
	for i, r := range s.finish.Records {
		records[recordName(i, r)] = wire.Record{Kind: r.Kind, Name: r.Name, File: r.File}
	}
	reached, why := s.q.Reached()
	return struct {
		Hello       wire.HelloAnswer       `json:"component"`
		Decision    Decision               `json:"decision"`
		Volumes     []wire.Volume          `json:"volumes"`
		Found       []wire.Application     `json:"applications"`
		CopyOnly    bool                   `json:"copyOnly"`
		Consistency string                 `json:"consistency"`
		Why         []string               `json:"why"`
		Records     map[string]wire.Record `json:"records"`
	}{s.deployed.Component.Hello(), s.decision, s.found.Volumes, s.found.Applications, s.copyOnly, reached.String(), why, records}
}

// recordName is where a record is kept. Its parts come from the guest, so only plain letters of them are used, and a
// number makes it the only one.
func recordName(i int, r wire.Record) string {
	return fmt.Sprintf("guest/records/%03d-%s/%s", i, plainName(r.Kind+"-"+r.Name), plainName(r.File))
}

func plainName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '_'
	}, s[:min(len(s), 100)])
	return cmp.Or(strings.TrimLeft(s, "."), "_")
}

// index streams the list of files into the point. A list that cannot be made is a warning: the point is whole without.
func (s *Session) index(ctx context.Context, put func(string, io.Reader) error) error {
	if s.opts.Index == nil || !s.deployed.Component.Has(wire.Index) {
		return nil
	}
	r, w := io.Pipe()
	type indexed struct {
		wire.IndexAnswer
		err error
	}
	done := make(chan indexed, 1)
	var skipped atomic.Pointer[[]string]
	go func() {
		a, err := s.deployed.Component.Index(ctx, *s.opts.Index, w)
		skipped.Store(&a.Skipped) // before the list's end, which is when it is asked for
		w.CloseWithError(err)
		done <- indexed{a, err}
	}()
	made := index.FromList(r, &index.Options{Incomplete: func(mount string) string {
		if all := skipped.Load(); all != nil {
			return whyNot(*all, mount)
		}
		return ""
	}})
	source := &source{from: made}
	err := put(index.BlobName, source)
	made.Close()
	r.CloseWithError(cmp.Or(err, io.ErrClosedPipe))
	a := <-done
	switch {
	case ctx.Err() != nil:
		return cmp.Or(err, ctx.Err())
	case source.failed.Load() != nil:
		s.warn("%v", s.failure("index", *source.failed.Load()))
		return nil
	case err == nil && a.err == nil:
		s.result.Files = a.Entries
		s.event("index", "%d files", a.Entries)
		s.unlisted(a.Skipped)
		return nil
	case err == nil:
		s.warn("%v", s.failure("index", a.err))
		return nil
	}
	return err
}

// maxUnlisted is how many folders and volumes that are not listed have a warning of their own.
const maxUnlisted = 20

// unlisted warns of what the list of files is without.
func (s *Session) unlisted(skipped []string) {
	for _, what := range skipped[:min(len(skipped), maxUnlisted)] {
		s.warn("the list of files is not whole: %s", strings.ToValidUTF8(what[:min(len(what), 1000)], "\uFFFD"))
	}
	if n := len(skipped) - maxUnlisted; n > 0 {
		s.warn("the list of files is not whole: %d more that are not listed", n)
	}
}

// whyNot is why a volume is not listed whole, of what the component left out: "MOUNT: why".
func whyNot(skipped []string, mount string) string {
	for _, what := range skipped {
		if why, ok := strings.CutPrefix(what, mount+": "); ok {
			return why
		}
	}
	return ""
}

// source remembers whether it was the guest that failed: the other end's failure is not the guest's to be warned of.
type source struct {
	from   io.Reader
	failed atomic.Pointer[error]
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	if err != nil && err != io.EOF {
		s.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}
