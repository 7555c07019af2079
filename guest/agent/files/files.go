package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/index/list"
)

// Bounds of a walk.
const (
	maxDepth   = 512      // folders, of which each is open while what is below it is visited
	maxHeld    = 1 << 16  // names of one folder
	maxNamed   = 32 << 20 // bytes that the names of all folders take that are open
	minNamed   = 32 << 10 // of one folder, also when those are taken
	nameBytes  = 128      // that a name takes beside its own
	maxBytes   = 3 << 30  // of the list
	maxSkipped = 200      // that the answer names
	maxShown   = 300      // bytes of a path, and of why
)

// Lister implements agent.Indexer.
type Lister struct{}

// New is a lister of this system's files.
func New() *Lister { return &Lister{} }

// errFull ends a walk whose list is long enough.
var errFull = errors.New("the list is as long as it may be")

// Index writes the list of the volumes' files. Include are folders; nothing else is listed but what leads to them. Exclude
// are folders, too, or names where there is no slash in them: * ? and [ ] stand for what they do in [path.Match]. Errors
// are those of the stream, of ctx, and wire.CodeInvalid for what cannot be asked.
func (l *Lister) Index(ctx context.Context, args wire.IndexArgs, to io.Writer) (wire.IndexAnswer, error) {
	r, err := newRules(args)
	if err != nil {
		return wire.IndexAnswer{}, err
	}
	s := &session{ctx: ctx, rules: r, out: list.NewWriter(to), answer: wire.IndexAnswer{Skipped: []string{}}}
	done := make(chan error, 1)
	go func() {
		// The thread ends with this function, and its priority with it.
		runtime.LockOSThread()
		background()
		done <- s.run()
	}()
	err = <-done
	s.answer.Entries, s.answer.Bytes = s.out.Entries(), s.out.Bytes()
	return s.answer, err
}

// session is one walk.
type session struct {
	ctx    context.Context
	rules  *rules
	out    *list.Writer
	answer wire.IndexAnswer
	more   int // that the answer does not name
	held   int // bytes of names
}

// volume is one that is to be walked.
type volume struct {
	list.Volume
	device uint64 // on Linux; 0: whatever is there
	broken error  // it cannot be walked
}

func (s *session) run() error {
	all, err := s.volumes()
	if err != nil {
		return err
	}
	isFull := false
	for _, v := range all {
		if !s.rules.list(v.Mount) {
			continue
		}
		var err error
		switch {
		case isFull:
			err = s.closed(v, errFull)
		case v.broken != nil:
			err = s.closed(v, v.broken)
		default:
			err = s.walk(v)
		}
		if errors.Is(err, errFull) {
			s.incomplete(v.Mount, errFull.Error())
			isFull, err = true, nil
		}
		if err != nil {
			return err
		}
	}
	if s.more > 0 {
		s.answer.Skipped = append(s.answer.Skipped, fmt.Sprintf("and %d more", s.more))
	}
	if err := s.ctx.Err(); err != nil {
		return err
	}
	return s.out.Close()
}

// skip tells of something that is not listed.
func (s *session) skip(what, why string) {
	if len(s.answer.Skipped) < maxSkipped {
		s.answer.Skipped = append(s.answer.Skipped, shown(what)+": "+shown(why))
	} else {
		s.more++
	}
}

// incomplete tells of a volume that is not listed whole: before all folders, so that no number of them hides it.
func (s *session) incomplete(mount, why string) {
	what := shown(mount) + ": " + shown(why)
	if slices.Contains(s.answer.Skipped, what) {
		return
	}
	if n := len(s.answer.Skipped); n >= maxSkipped {
		s.answer.Skipped = s.answer.Skipped[:n-1]
		s.more++
	}
	s.answer.Skipped = slices.Insert(s.answer.Skipped, 0, what)
}

// closed lists a volume of which nothing can be listed: its root, with why.
func (s *session) closed(v volume, why error) error {
	s.incomplete(v.Mount, why.Error())
	if err := s.out.Volume(v.Volume); err != nil {
		return err
	}
	return s.out.Add(list.Entry{Type: list.Dir, Note: shown(why.Error())})
}

// unread tells of a folder that could not be read to its end, which its entry did not know.
func (s *session) unread(mount, full string, err error) {
	s.skip(full, err.Error())
	s.incomplete(mount, errUnread.Error())
}

// shown is a text that may be hostile as it stands in an answer.
func shown(text string) string {
	if len(text) > maxShown {
		text = text[:maxShown] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// add adds an entry, and sees to the bounds of a walk. An entry that cannot be in a list is skipped: a damaged file system
// has anything.
func (s *session) add(e list.Entry) error {
	if s.out.Bytes() > maxBytes {
		return errFull
	}
	err := s.out.Add(e)
	if errors.Is(err, list.ErrMalformed) {
		s.skip(e.Path, err.Error())
		return nil
	}
	return err
}

// unlisted is the note of a folder whose content is not listed.
func (s *session) unlisted(full string, err error) string {
	why := shown(err.Error())
	s.skip(full, why)
	return why
}

// Why a folder's content is not listed.
var (
	errMount    = errors.New(list.NoteMount)
	errReplaced = errors.New("replaced while it was visited")
	errUnread   = errors.New("a folder could not be read to its end")
	errDeep     = fmt.Errorf("more than %d folders deep", maxDepth)
)

// join makes a path below a folder, whose own may be that of a volume's root.
func join(dir, name string) string {
	switch {
	case dir == "":
		return name
	case name == "":
		return dir
	case strings.HasSuffix(dir, "/"):
		return dir + name
	}
	return dir + "/" + name
}

// chosen collects the smallest names above one, at most maxHeld and what there is room for, and forgets the others.
type chosen[T any] struct {
	after string
	first bool // there is no after
	room  int  // bytes
	held  []named[T]
	bytes int    // of held
	full  bool   // there are more
	last  string // the greatest that is of use, if there are
}

type named[T any] struct {
	name string
	with T
}

// choose begins to collect a folder's names. It may have half of what is left, so that those below it have some, too; and
// where nothing is left a few, for then it is read again more often.
func choose[T any](s *session, after string, first bool) chosen[T] {
	return chosen[T]{after: after, first: first, room: max((maxNamed-s.held)/2, minNamed)}
}

func (c *chosen[T]) add(name string, with T) {
	if !c.first && name <= c.after || c.full && name > c.last {
		return
	}
	c.held = append(c.held, named[T]{name, with})
	c.bytes += len(name) + nameBytes
	if len(c.held) >= 2*maxHeld || c.bytes >= 2*c.room {
		c.trim()
	}
}

func (c *chosen[T]) trim() {
	c.sort()
	n := 0
	c.bytes = 0
	for n < len(c.held) && n < maxHeld {
		size := len(c.held[n].name) + nameBytes
		if n > 0 && c.bytes+size > c.room {
			break
		}
		c.bytes += size
		n++
	}
	if n < len(c.held) {
		clear(c.held[n:])
		c.held, c.full, c.last = c.held[:n], true, c.held[n-1].name
	}
}

func (c *chosen[T]) sort() {
	slices.SortFunc(c.held, func(a, b named[T]) int { return strings.Compare(a.name, b.name) })
	c.held = slices.CompactFunc(c.held, func(a, b named[T]) bool { return a.name == b.name })
}
