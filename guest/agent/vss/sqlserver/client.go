package sqlserver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Bounds of what sqlcmd prints in one batch.
const (
	maxOutput = 4 << 20
	maxRows   = 32768 // a server has at most 32,767 databases
	maxText   = 500   // runes of a message
	endLimit  = 5 * time.Second
)

// Error is a message of the server's that ended a statement.
type Error struct {
	Number, Level int
	Text          string
}

func (e *Error) Error() string {
	return fmt.Sprintf("SQL Server error %d, level %d: %s", e.Number, e.Level, e.Text)
}

// ErrOutput says that what came back is not what sqlcmd prints.
var ErrOutput = errors.New("unexpected output of sqlcmd")

// client runs batches on one server.
type client struct {
	program string                                                                  // sqlcmd.exe, absolute
	env     []string                                                                // nil: that of the process
	server  string                                                                  // lpc:.\INSTANCE
	feed    func(ctx context.Context, args []string, script string) ([]byte, error) // nil: the program
}

// arguments: no start-up script, no commands of sqlcmd's own, no variables, in input (-X1, -x); no heading (-h -1), no
// padding (-W), lines that are not broken (-w); Windows authentication (-E), and 15 s to log in (-l).
func (c *client) arguments() []string {
	return []string{"-S", c.server, "-E", "-X1", "-x", "-h", "-1", "-W", "-w", "65535", "-l", "15"}
}

// query runs the statement that build makes with a fresh mark, and returns its rows. Several server errors are joined.
func (c *client) query(ctx context.Context, build func(mark string) string) ([][]string, error) {
	var random [12]byte
	rand.Read(random[:])
	mark := "hikae-" + hex.EncodeToString(random[:])
	feed := c.feed
	if feed == nil {
		feed = c.run
	}
	output, err := feed(ctx, c.arguments(), script(mark, build(mark)))
	rows, parseErr := parse(output, mark)
	var server *Error
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("sqlcmd: %w", context.Cause(ctx))
	case errors.As(parseErr, &server), err == nil:
		return rows, parseErr
	}
	return nil, err
}

// script is a batch between two of ours. One that fails ends neither sqlcmd nor the batch behind it.
func script(mark, statement string) string {
	return "PRINT '" + mark + " begin'\nGO\nSET NOCOUNT ON; " + statement + "\nGO\nPRINT '" + mark + " end'\nGO\nQUIT\n"
}

// run feeds a script to a sqlcmd of its own. It is killed when the context ends or when it prints too much.
func (c *client) run(ctx context.Context, args []string, script string) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.program, args...)
	cmd.Env, cmd.WaitDelay = c.env, endLimit
	cmd.Stdin = strings.NewReader(script)
	out := &bounded{left: maxOutput, full: cancel}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if out.left < 0 {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrOutput, maxOutput)
	}
	if err != nil {
		return out.b.Bytes(), fmt.Errorf("sqlcmd: %w: %s", err, clean(lastLine(out.b.Bytes())))
	}
	return out.b.Bytes(), nil
}

// bounded keeps what it has room for.
type bounded struct {
	b    bytes.Buffer
	left int
	full func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		b.full()
		return 0, io.ErrShortWrite
	}
	return b.b.Write(p)
}

var (
	prompt  = regexp.MustCompile(`^(\d+> )+`)
	message = regexp.MustCompile(`^Msg (\d{1,9}), Level (\d{1,3}), State \d{1,3}`)
)

// errorLevel is the lowest level of a message that is an error.
const errorLevel = 11

// parse finds the rows and the errors between the marks.
func parse(output []byte, mark string) ([][]string, error) {
	var rows [][]string
	var problems []error
	var pending *Error // whose text is the next line
	begun, ended := false, false
	lines := bufio.NewScanner(bytes.NewReader(output))
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		line := prompt.ReplaceAllString(strings.TrimRight(lines.Text(), "\r\x00 "), "")
		rest, ours := strings.CutPrefix(line, mark+" ")
		switch {
		case ours && rest == "begin":
			begun = true
		case ours && rest == "end" && begun:
			ended = true
		case !begun || ended:
		case ours && (rest == "row" || strings.HasPrefix(rest, "row ")):
			r, err := columns(strings.TrimPrefix(rest, "row"))
			if err != nil || len(rows) == maxRows {
				return nil, errors.Join(ErrOutput, err)
			}
			rows = append(rows, r)
		case pending != nil:
			pending.Text, pending = clean(line), nil
		default:
			if m := message.FindStringSubmatch(line); m != nil {
				number, _ := strconv.Atoi(m[1]) // digits, few enough
				level, _ := strconv.Atoi(m[2])
				pending = &Error{Number: number, Level: level}
				if level >= errorLevel && len(problems) < 16 {
					problems = append(problems, pending)
				}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrOutput, err)
	}
	if !ended && len(problems) == 0 {
		return nil, fmt.Errorf("%w: it ends early: %s", ErrOutput, clean(lastLine(output)))
	}
	return rows, errors.Join(problems...)
}

// columns decodes one row. Each column follows a space; an empty one is empty.
func columns(s string) ([]string, error) {
	var out []string
	for s != "" {
		at := strings.IndexByte(s[1:], ' ')
		if s[0] != ' ' {
			return nil, errors.New("a row without columns")
		}
		word := s[1:]
		if at >= 0 {
			word = s[1 : 1+at]
		}
		s = s[1+len(word):]
		b, err := hex.DecodeString(word)
		if err != nil || len(b)%2 != 0 {
			return nil, fmt.Errorf("a column that is no text: %.40q", word)
		}
		out = append(out, textOf(b))
	}
	return out, nil
}

// clean makes a message fit to be printed.
func clean(s string) string {
	n := 0
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if n++; n > maxText {
			return -1
		}
		if !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, s))
}

func lastLine(b []byte) string {
	s := strings.TrimSpace(string(b[max(0, len(b)-2000):]))
	return s[strings.LastIndexByte(s, '\n')+1:]
}
