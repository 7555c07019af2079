package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/guest/index"
	"github.com/hikae/hikae/guest/index/list"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/files"
)

// maxIndex bounds the list of files that is read of a point, in bytes; no point takes a longer one. It is held in memory:
// on this machine's disk it would stand unencrypted.
const maxIndex = 256 << 20

// inIndex searches the list that was made in the guest. False: there is none that can be read.
func (s *search) inIndex(ctx context.Context, g *contents) (bool, error) {
	i := slices.IndexFunc(g.point.Blobs, func(b pipe.BlobInfo) bool { return b.Name == index.BlobName })
	if i < 0 {
		return false, nil
	}
	x, err := openIndex(ctx, g, g.point.Blobs[i])
	if err == nil {
		err = s.volumes(ctx, x)
	}
	switch {
	case err == nil:
		s.doc.Source = "index"
		s.left.notes = append(s.left.notes, "searched the list of files that was made in the guest for this point; --read-disks reads its disks")
		return true, nil
	case ctx.Err() != nil, errors.Is(err, errTooMany), errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	s.doc.Found = []foundOne{}
	s.warn(fmt.Sprintf("the point's list of files cannot be read, so its disks are: %v", err))
	return false, nil
}

func openIndex(ctx context.Context, g *contents, b pipe.BlobInfo) (*index.Index, error) {
	r, err := g.repo.OpenBlob(ctx, g.point.ID, b.Name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, min(b.Size, maxIndex)))
	if err != nil {
		return nil, err
	}
	return index.Open(ctx, bytes.NewReader(data), int64(len(data)))
}

// volumes searches all volumes of a list.
func (s *search) volumes(ctx context.Context, x *index.Index) error {
	there := s.under == "."
	for i, v := range x.Volumes() {
		in := listedVolume{search: s, index: x, number: i, volume: v.Volume, cut: v.Cut}
		folder, ok := in.folder()
		if !ok {
			continue
		}
		before := len(s.left.warnings)
		if v.Cut != "" {
			s.warn(fmt.Sprintf("the list of files of %s is not whole: %s", clip(v.Mount), clip(v.Cut)))
		}
		if err := in.noted(ctx, folder); err != nil {
			return err
		}
		if folder != "" && !there {
			_, err := x.Stat(ctx, i, folder)
			// What is not there may be in what is not listed, which was said.
			there = err == nil || len(s.left.warnings) > before
		} else {
			there = true
		}
		if err := in.find(ctx, folder); err != nil {
			return err
		}
	}
	if !there {
		return fs.ErrNotExist
	}
	return nil
}

// listedVolume is one volume of a list.
type listedVolume struct {
	*search
	index  *index.Index
	number int
	volume index.Volume
	cut    string
}

// maxNoted is how many folders without content are named.
const maxNoted = 5

// noted warns of folders within one whose content is not listed, and of those that it is in. What another file system is
// mounted on is no such: either that is listed, too, or it is none of the machine's disks.
func (l *listedVolume) noted(ctx context.Context, folder string) error {
	var first []string
	n := 0
	note := func(e *index.Entry) {
		if e.Note == "" || e.Note == list.NoteMount || e.Path == "" && l.cut != "" {
			return
		}
		if n++; n <= maxNoted {
			first = append(first, clip("/"+l.full(e)+": "+e.Note))
		}
	}
	for at := folder; at != ""; {
		at = at[:max(strings.LastIndexByte(at, '/'), 0)]
		e, err := l.index.Stat(ctx, l.number, at)
		if err == nil {
			note(&e)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for e, err := range l.index.Walk(ctx, l.number, folder) {
		if err != nil {
			return err
		}
		note(&e)
	}
	if n > maxNoted {
		first = append(first, "…")
	}
	if n > 0 {
		l.warn(fmt.Sprintf("the content of %d folders is not in the list of files: %s", n, strings.Join(first, "; ")))
	}
	return nil
}

// clip is a text of a guest that is not too long.
func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), 300)], "\uFFFD")
}

// folder is where in the volume to look; false: it has nothing below what is asked for.
func (l *listedVolume) folder() (string, bool) {
	under, mount := l.under, strings.Trim(l.volume.Mount, "/")
	if under == "." {
		under = ""
	}
	if l.windows() && strings.EqualFold(under[:min(len(under), len(mount))], mount) {
		under = mount + under[min(len(under), len(mount)):]
	}
	switch {
	case index.Within(mount, under):
		return "", true
	case mount == "":
		return raw(under), true
	case index.Within(under, mount):
		return raw(strings.TrimPrefix(under[len(mount):], "/")), true
	}
	return "", false
}

// raw is a path of which some names may be shown otherwise than they are: what is above the first such.
func raw(shown string) string {
	names := strings.Split(shown, "/")
	if i := slices.IndexFunc(names, func(n string) bool { return strings.Contains(n, `\`) }); i >= 0 {
		names = names[:i]
	}
	return strings.Join(names, "/")
}

func (l *listedVolume) windows() bool { return l.volume.System == list.Windows }

// find finds what fits, and all that is below a folder that fits.
func (l *listedVolume) find(ctx context.Context, folder string) error {
	if l.fits(&index.Entry{}) {
		return l.all(ctx, folder)
	}
	// A folder above may fit: then all does.
	for at := folder; at != ""; at = at[:max(strings.LastIndexByte(at, '/'), 0)] {
		if l.fits(&index.Entry{Path: at}) {
			return l.all(ctx, folder)
		}
	}
	within, any := "", false
	q := index.Query{Folder: folder, Globs: l.names(), Fold: l.windows(), Keep: func(e *index.Entry) bool { return l.fits(e) }}
	for e, err := range l.index.Find(ctx, l.number, q) {
		if err != nil {
			return err
		}
		if any && index.Within(e.Path, within) {
			continue
		}
		if e.Type == list.Dir {
			within, any = e.Path, true
			err = l.all(ctx, e.Path)
		} else {
			err = l.tell(&e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// all tells of all that fits below a folder.
func (l *listedVolume) all(ctx context.Context, folder string) error {
	for e, err := range l.index.Walk(ctx, l.number, folder) {
		if err != nil {
			return err
		}
		if !l.fits(&e) {
			continue
		}
		if err := l.tell(&e); err != nil {
			return err
		}
	}
	return nil
}

// names are globs for the last names of what is looked for: they say which parts of the list need not be read.
func (l *listedVolume) names() []string {
	var out []string
	for _, g := range l.globs {
		last := strings.Trim(g, "/")
		last = last[strings.LastIndexByte(last, '/')+1:]
		switch {
		case strings.HasPrefix(g, "!") || strings.Contains(g, "::"):
		case last == "**" || strings.Contains(last, `\`):
			return nil
		default:
			out = append(out, "**/"+last)
		}
	}
	return out
}

// full is how the machine's path of an entry is shown, without a slash in front.
func (l *listedVolume) full(e *index.Entry) string {
	p := e.Path
	if strings.IndexByte(p, '\\') >= 0 || !plain(p) {
		names := strings.Split(p, "/")
		for i, n := range names {
			names[i] = files.ShownName(n)
		}
		p = strings.Join(names, "/")
	}
	if mount := strings.Trim(l.volume.Mount, "/"); mount != "" {
		return strings.TrimSuffix(mount+"/"+p, "/")
	}
	return p
}

// plain reports whether all bytes are ASCII.
func plain(p string) bool {
	for i := range len(p) {
		if p[i] >= 0x80 {
			return false
		}
	}
	return true
}

// fits reports whether a pattern fits, on Windows within the volume and in any case.
func (l *listedVolume) fits(e *index.Entry) bool {
	if l.windows() {
		p := strings.TrimPrefix(strings.TrimPrefix(l.full(e), l.volume.Mount), "/")
		return p != "" && l.match.Fits(p, true)
	}
	p := l.full(e)
	return p != "" && l.match.Fits(p, false)
}

// tell adds an entry. A volume's root is listed with the folder that it is mounted on.
func (l *listedVolume) tell(e *index.Entry) error {
	full := l.full(e)
	if e.Path == "" || l.under != "." && !l.windows() && !index.Within(full, l.under) {
		return nil
	}
	kind := e.Type.String()
	if e.Type == list.Dir {
		kind = "directory"
	}
	return l.add(foundOne{Path: "/" + full, Type: kind, Size: e.Size, Time: time.Unix(e.ModUnix, 0).UTC()}, e.Owner)
}
