package sqlserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeVariable holds what the fake sqlcmd plays, in JSON. The test binary is that program where it is set.
const fakeVariable = "HIKAE_TEST_SQLCMD"

// play is what the fake knows and does.
type play struct {
	Folder    string
	Databases [][]string // columns of listDatabases
	Fail      map[string]string
	Endless   bool // prints for ever
	Hang      bool
	Silent    bool   // prints nothing and ends well
	Wild      string // before the databases, so many times
	Times     int
	Process   bool
	Log       string // file that gets the input
}

func TestMain(m *testing.M) {
	if text := os.Getenv(fakeVariable); text != "" {
		var p play
		if json.Unmarshal([]byte(text), &p) != nil {
			os.Exit(9)
		}
		p.run(os.Args[1:], os.Stdin, os.Stdout)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var literal = regexp.MustCompile(`DECLARE @(\w) nvarchar\(\d+\) = CONVERT\(nvarchar\(\d+\), 0x([0-9a-f]*)\);`)

// run answers batches as the documentation of sqlcmd shows, prompts and all.
func (p play) run(args []string, from io.Reader, to io.Writer) {
	if p.Hang {
		time.Sleep(time.Minute)
	}
	for p.Endless {
		fmt.Fprintln(to, strings.Repeat("x", 4096))
	}
	in := bufio.NewScanner(from)
	var batch []string
	var all strings.Builder
	for in.Scan() {
		fmt.Fprintln(&all, in.Text())
		switch in.Text() {
		case "QUIT":
			os.WriteFile(p.Log, []byte(strings.Join(args, " ")+"\n"+all.String()), 0o600)
			return
		case "GO":
			if !p.Silent {
				fmt.Fprint(to, "1> 2> ")
				p.batch(to, strings.Join(batch, " "))
			}
			batch = nil
		default:
			batch = append(batch, in.Text())
		}
	}
}

func (p play) batch(to io.Writer, s string) {
	mark := regexp.MustCompile(`hikae-[0-9a-f]{24}`).FindString(s)
	words := map[string]string{}
	for _, m := range literal.FindAllStringSubmatch(s, -1) {
		b, _ := hex.DecodeString(m[2])
		words[m[1]] = textOf(b)
	}
	switch {
	case strings.HasPrefix(s, "PRINT '"):
		fmt.Fprintf(to, "%s\r\n", strings.TrimSuffix(strings.TrimPrefix(s, "PRINT '"), "'"))
	case strings.Contains(s, "xp_instance_regread"):
		p.row(to, mark, "16.0.1000.6", p.Folder)
	case strings.Contains(s, "sys.databases"):
		fmt.Fprint(to, strings.Repeat(p.Wild, max(p.Times, 1)))
		for _, d := range p.Databases {
			p.row(to, mark, d...)
		}
	case strings.Contains(s, "RESTORE VERIFYONLY"):
		if b, err := os.ReadFile(words["f"]); err != nil || !strings.HasPrefix(string(b), "log of ") {
			fmt.Fprint(to, "Msg 3241, Level 16, State 0, Server X, Line 1\r\nThe media family is incorrectly formed.\r\n")
			return
		}
		fmt.Fprint(to, "The backup set on file 1 is valid.\r\n")
	case strings.Contains(s, "BACKUP LOG"):
		if text, bad := p.Fail[words["d"]]; bad {
			fmt.Fprint(to, text)
			return
		}
		if f := words["f"]; f != "" {
			os.WriteFile(f, []byte("log of "+words["d"]), 0o600)
		}
		fmt.Fprintf(to, "Processed 2 pages for database '%s', file 'log' on file 1.\r\nBACKUP LOG successfully processed 2 pages in 0.011 seconds (1.420 MB/sec).\r\n", words["d"])
	}
}

func (p play) row(to io.Writer, mark string, columns ...string) {
	fmt.Fprint(to, mark, " row")
	for _, c := range columns {
		fmt.Fprint(to, " ", strings.ToUpper(hex.EncodeToString(units(c))))
	}
	fmt.Fprint(to, "\r\n")
}

// keeper is one whose instance MSSQLSERVER is played: by this binary in a process of its own where it says so.
func keeper(t *testing.T, p play) (*Keeper, play) {
	t.Helper()
	if p.Folder == "" {
		p.Folder = t.TempDir()
	}
	p.Log = filepath.Join(t.TempDir(), "input")
	tick := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &Keeper{
		instances: func() ([]string, error) { return []string{"MSSQLSERVER"}, nil },
		open:      func(string) (*client, error) { return p.client(t) },
		now:       func() time.Time { tick = tick.Add(time.Minute); return tick },
	}, p
}

func (p play) client(t *testing.T) (*client, error) {
	if !p.Process {
		return &client{server: "lpc:.", feed: func(_ context.Context, args []string, script string) ([]byte, error) {
			var out bytes.Buffer
			p.run(args, strings.NewReader(script), &out)
			return out.Bytes(), nil
		}}, nil
	}
	text, err := json.Marshal(p)
	require.NoError(t, err)
	self, err := os.Executable()
	return &client{program: self, server: "lpc:.", env: append(os.Environ(), fakeVariable+"="+string(text))}, err
}
