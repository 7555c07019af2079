// Package lockline is what a directory store and the helper that locks its objects say to each other, and the store's side
// of it. Reach for it to write another helper, or another client of the one in package lockd.
//
// # The line
//
// The helper listens on the socket [Socket] in the repository's folder and knows its clients by the kernel's word
// (SO_PEERCRED), never by theirs. A request is a line, and so is its answer; a connection carries any number, one after
// another.
//
//	lock <unix seconds> <name>    ok <unix seconds>           until when the object is locked now
//	locked <name>                 ok <unix seconds>           0: it is not
//	now                           ok <unix seconds>           the helper's clock
//	                              no <kind> <words>           kind: one of [Kinds]
//
// A line has at most [MaxLine] bytes with its end. Whoever sends a longer one is not listened to any more.
package lockline

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/hikae/hikae/repo/store"
)

const (
	// Socket is the helper's name in the repository's folder; no object can have it.
	Socket = ".lockd"
	// MaxLine bounds requests and answers, in bytes.
	MaxLine = 512
)

// ErrBusy says that an object is open for writing, so that a lock would not keep its content.
var ErrBusy = errors.New("open for writing")

// Kinds are the words for errors that callers can act on. Everything else is "failed".
var Kinds = map[string]error{
	"absent": fs.ErrNotExist, "foreign": store.ErrForeign, "invalid": fs.ErrInvalid, "busy": ErrBusy,
	"unsupported": errors.ErrUnsupported, "denied": fs.ErrPermission,
}

// Request is one line to the helper.
type Request struct {
	Verb  string // "lock", "locked" or "now"
	Until int64  // of lock: seconds since 1970
	Name  string // of lock and locked: a valid name of an object
}

// String is the line without its end.
func (q Request) String() string {
	switch q.Verb {
	case "lock":
		return fmt.Sprintf("lock %d %s", q.Until, q.Name)
	case "locked":
		return "locked " + q.Name
	}
	return q.Verb
}

// ParseRequest reads a line. Error: fs.ErrInvalid.
func ParseRequest(line string) (q Request, err error) {
	words := strings.Split(line, " ")
	q.Verb = words[0]
	switch {
	case q.Verb == "now" && len(words) == 1:
		return q, nil
	case q.Verb == "locked" && len(words) == 2:
		q.Name = words[1]
	case q.Verb == "lock" && len(words) == 3:
		q.Name = words[2]
		q.Until, err = seconds(words[1])
	default:
		err = fs.ErrInvalid
	}
	if err != nil || !store.ValidName(q.Name) {
		return Request{}, fs.ErrInvalid
	}
	return q, nil
}

// Answer is the line for a result.
func Answer(at int64, err error) string {
	if err == nil {
		return fmt.Sprintf("ok %d", at)
	}
	kind := "failed"
	for k, e := range Kinds {
		if errors.Is(err, e) {
			kind = k
		}
	}
	words := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, err.Error())
	return fmt.Sprintf("no %s %s", kind, words[:min(len(words), MaxLine-32)])
}

// ParseAnswer reads an answer. An error of the helper is found by errors.Is, as [Kinds] has them.
func ParseAnswer(line string) (int64, error) {
	if rest, ok := strings.CutPrefix(line, "ok "); ok {
		return seconds(rest)
	}
	rest, ok := strings.CutPrefix(line, "no ")
	kind, words, two := strings.Cut(rest, " ")
	if !ok || !two {
		return 0, fmt.Errorf("the helper's answer %q is none", line)
	}
	if e := Kinds[kind]; e != nil {
		return 0, fmt.Errorf("the helper says: %s: %w", words, e)
	}
	return 0, fmt.Errorf("the helper says: %s", words)
}

// maxSeconds is the year 9999's end, beyond which times have no text.
const maxSeconds = 253402300799

func seconds(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > maxSeconds || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("the time %q: %w", s, fs.ErrInvalid)
	}
	return n, nil
}

// ReadLine reads one line of at most [MaxLine] bytes; rd's buffer has that size.
func ReadLine(rd *bufio.Reader) (string, error) {
	b, err := rd.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("a line of more than %d bytes: %w", MaxLine, fs.ErrInvalid)
	case err == io.EOF && len(b) > 0:
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	}
	return string(b[:len(b)-1]), nil
}
