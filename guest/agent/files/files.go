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
	maxDepth   = 512     // folders, of which each is open while what is below it is visited
	maxHeld    = 1 << 16 // names of one folder
	maxBytes   = 3 << 30 // of the list
	maxSkipped = 200     // that the answer names
	maxShown   = 300     // bytes of a path, and of why
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
}

// volume is one that is to be walked.
type volume struct {
	list.Volume
	device uint64 // on Linux; 0: whatever is there
}

func (s *session) run() error {
	all, err := s.volumes()
	if err != nil {
		return err
	}
	for _, v := range all {
		if !s.rules.list(v.Mount) {
			continue
		}
		err := s.walk(v)
		if errors.Is(err, errFull) {
			s.skip(v.Mount, errFull.Error())
			break
		}
		if err != nil {
			return err
		}
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
	}
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
	errMount    = errors.New("another file system is mounted here")
	errReplaced = errors.New("replaced while it was visited")
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

// chosen collects the smallest names above one, at most maxHeld, and forgets the others.
type chosen[T any] struct {
	after string
	first bool // there is no after
	held  []named[T]
	full  bool // there are more
}

type named[T any] struct {
	name string
	with T
}

func (c *chosen[T]) add(name string, with T) {
	if !c.first && name <= c.after || c.full && name > c.held[maxHeld-1].name {
		return
	}
	c.held = append(c.held, named[T]{name, with})
	if len(c.held) >= 2*maxHeld {
		c.trim()
	}
}

func (c *chosen[T]) trim() {
	c.sort()
	if len(c.held) > maxHeld {
		clear(c.held[maxHeld:])
		c.held, c.full = c.held[:maxHeld], true
	}
}

func (c *chosen[T]) sort() {
	slices.SortFunc(c.held, func(a, b named[T]) int { return strings.Compare(a.name, b.name) })
	c.held = slices.CompactFunc(c.held, func(a, b named[T]) bool { return a.name == b.name })
}
