package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

func reviewTool(env map[string]string) (*tool, *bytes.Buffer, *bytes.Buffer) {
	var out, errs bytes.Buffer
	return &tool{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, env: func(k string) string { return env[k] }}, &out, &errs
}

func reviewRun(t *testing.T, env map[string]string, args ...string) (outcome.Status, string) {
	t.Helper()
	tl, out, errs := reviewTool(env)
	st := tl.run(t.Context(), args)
	t.Logf("$ hikae %s  -> exit %d\n%q\n%q", strings.Join(args, " "), st, out.String(), errs.String())
	return st, out.String() + errs.String()
}

func reviewEnv(dir, home string) map[string]string {
	return map[string]string{"HIKAE_STATE_DIR": filepath.Join(dir, home), "HIKAE_CACHE_DIR": filepath.Join(dir, home+"c"), "HIKAE_PASSWORD": ""}
}

// reviewMover is a real mover with a book.
func reviewMover(t *testing.T, opts mover.ServerOptions) (*trust.Identity, *trust.Book, string) {
	t.Helper()
	dir := t.TempDir()
	id, err := trust.LoadIdentity(dir)
	require.NoError(t, err)
	book, err := trust.OpenBook(dir)
	require.NoError(t, err)
	opts.Identity, opts.Book, opts.StateDir = id, book, dir
	if opts.Source == nil && opts.Blind == nil {
		opts.Source = &images{files: map[string]string{}}
	}
	s, err := mover.NewServer(&opts)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go s.Serve(context.Background(), l)
	t.Cleanup(func() {
		ctx, c := context.WithTimeout(context.Background(), 5*time.Second)
		defer c()
		_ = s.Shutdown(ctx)
	})
	return id, book, l.Addr().String()
}

// hostile is a mover that answers as a test wants it.
type hostile func(req wire.Message) (wire.Message, error)

func (h hostile) Handle(_ context.Context, _ uint64, req wire.Message) (wire.Message, error) { return h(req) }
func (hostile) Close() error                                                                  { return nil }

func reviewHostile(t *testing.T, answer hostile) (*trust.Identity, *trust.Book, string) {
	t.Helper()
	dir := t.TempDir()
	id, err := trust.LoadIdentity(dir)
	require.NoError(t, err)
	book, err := trust.OpenBook(dir)
	require.NoError(t, err)
	s := session.NewServer(&session.ServerOptions{
		Open:    func(context.Context, trust.Peer, func(wire.Message)) (session.Handler, error) { return answer, nil },
		Collect: func(context.Context, trust.Peer, *session.Client) (session.Handler, error) { return answer, nil },
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close(); s.Close() })
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				conn, peer, err := trust.Accept(ctx, raw, trust.ServerTLS(id, book), book)
				if err == nil {
					_ = s.ServeConn(ctx, conn, peer)
				}
			}()
		}
	}()
	return id, book, l.Addr().String()
}

// Two enrols with one token on one machine at once: whatever they answer, a machine whose key is in the book has it.
func TestReviewEnrolTwiceAtOnce(t *testing.T) {
	id, book, at := reviewMover(t, mover.ServerOptions{})
	lost, good := 0, 0
	end := time.Now().Add(35 * time.Second)
	n := 0
	for ; n < 400 && time.Now().Before(end); n++ {
		state := t.TempDir()
		token, err := book.AddToken(id.Pin(), "site-a", trust.Append, time.Hour)
		require.NoError(t, err)
		var wg sync.WaitGroup
		errs := make([]error, 3)
		for i := range errs {
			tl, _, _ := reviewTool(reviewEnv(state, "a"))
			wg.Go(func() { _, errs[i] = tl.bringToken(context.Background(), at, token, state, "") })
		}
		wg.Wait()
		peers, err := book.Peers()
		require.NoError(t, err)
		have := false
		_ = filepath.WalkDir(state, func(path string, e os.DirEntry, _ error) error {
			if e != nil && e.Name() == "identity.key" {
				if k, err := trust.LoadIdentity(filepath.Dir(path)); err == nil && k.Pin() == peers[0].Pin {
					have = true
				}
			}
			return nil
		})
		if !have {
			lost++
			if lost == 1 {
				for i, err := range errs {
					t.Logf("round %d, enrol %d: %v", n, i, err)
					if err == nil {
						good++
					}
				}
			}
		}
		require.NoError(t, book.Revoke("site-a"))
	}
	t.Logf("%d rounds, %d lost keys", n, lost)
	require.Zero(t, lost, "the key that the mover knows is nowhere on this machine any more (%d of the enrols of that round reported success)", good)
}

// The answer to an enrolment was lost (or the program was killed before it kept it): the second run mends that.
func TestReviewEnrolAnswerLost(t *testing.T) {
	dir := t.TempDir()
	b, o, a := reviewEnv(dir, "b"), reviewEnv(dir, "o"), reviewEnv(dir, "a")
	o["HIKAE_PASSWORD"] = "secret"
	vault := filepath.Join(dir, "vault")
	require.NoError(t, os.Mkdir(vault, 0o700))
	tokenFor := func(name string, more ...string) string {
		file := filepath.Join(dir, "token-"+name)
		tl, out, _ := reviewTool(b)
		require.Zero(t, tl.run(t.Context(), append([]string{"mover", "token", "--blind", "--repo", vault, name}, more...)))
		require.NoError(t, os.WriteFile(file, out.Bytes(), 0o600))
		return file
	}
	owner, site := tokenFor("owner", "--role", "full"), tokenFor("site-a")
	srv, _, _ := reviewTool(b)
	pr, pw := io.Pipe()
	srv.stdout = pw
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { srv.run(ctx, []string{"mover", "serve", "--blind", "--repo", vault, "--listen", "127.0.0.1:0"}); pw.Close() })
	defer wg.Wait()
	defer cancel()
	var ready struct{ Listening string }
	require.NoError(t, json.NewDecoder(pr).Decode(&ready))
	at := ready.Listening
	st, _ := reviewRun(t, o, "mover", "enrol", at, "--token-file", owner)
	require.Zero(t, st)
	st, _ = reviewRun(t, o, "init", "mover://"+at+"/owner")
	require.Zero(t, st)
	key := filepath.Join(dir, "writer.key")
	st, _ = reviewRun(t, o, "key", "writer", "--repo", "mover://"+at+"/owner", "--vm", "web1", "--out", key)
	require.Zero(t, st)

	// what a kill leaves between the mover's book and this machine's mover.json
	data, err := os.ReadFile(site)
	require.NoError(t, err)
	token, err := trust.ParseToken(string(data))
	require.NoError(t, err)
	once, err := token.Identity()
	require.NoError(t, err)
	at2 := filepath.Join(a["HIKAE_STATE_DIR"], "movers", "at", folderName(at), "_token-"+once.Pin().Short())
	mine, err := trust.LoadIdentity(at2)
	require.NoError(t, err)
	folders, err := filepath.Glob(filepath.Join(b["HIKAE_STATE_DIR"], "movers", "for", "*"))
	require.NoError(t, err)
	book, err := trust.OpenBook(folders[0])
	require.NoError(t, err)
	_, err = book.Enrol(once.Pin(), mine.PublicKey(), "")
	require.NoError(t, err)

	st, text := reviewRun(t, a, "mover", "enrol", at, "--token-file", site, "--writer-key", key)
	require.Zero(t, st)
	t.Log(text)
	disk := filepath.Join(dir, "disk.raw")
	require.NoError(t, os.WriteFile(disk, bytes.Repeat([]byte("x"), 1<<20), 0o600))
	st, text = reviewRun(t, a, "backup", "--repo", "mover://"+at+"/site-a", "--name", "web1", disk)
	require.Zero(t, st, text)
}

// What a mover answers to an enrolment touches nothing but the place of that enrolment, and does not steer the terminal.
func TestReviewEnrolHostileAnswer(t *testing.T) {
	for _, name := range []string{"", "owner"} {
		t.Run("name="+name, func(t *testing.T) {
			id, book, at := reviewHostile(t, func(req wire.Message) (wire.Message, error) {
				return &wire.Enrolled{Name: name, Role: "append", Mode: "\x1b]0;owned\x07\x1b[2Jtrusted"}, nil
			})
			dir := t.TempDir()
			env := reviewEnv(dir, "a")
			// an enrolment of another repository (another key) at that address, with a writer's key
			other := filepath.Join(env["HIKAE_STATE_DIR"], "movers", "at", folderName(at), "owner")
			was, err := trust.LoadIdentity(other)
			require.NoError(t, err)
			require.NoError(t, keepEnrolment(other, enrolment{Address: at, Name: "owner", Role: "full", Mode: "blind", Server: was.Pin().String()}))
			token, err := book.AddToken(id.Pin(), "x", trust.Append, time.Hour)
			require.NoError(t, err)
			file := filepath.Join(dir, "token")
			require.NoError(t, os.WriteFile(file, []byte(token.String()), 0o600))
			_, text := reviewRun(t, env, "mover", "enrol", at, "--token-file", file)
			if strings.Contains(text, "\x1b") {
				t.Errorf("escape sequences of the mover reach the terminal: %q", text)
			}
			now, err := trust.PendingIdentity(other) // only to see that nothing is made
			_ = now
			_ = err
			if _, err := os.Stat(filepath.Join(other, "identity.key")); err != nil {
				t.Errorf("the key of another enrolment is gone: %v", err)
			} else if k, err := trust.LoadIdentity(other); err != nil || k.Pin() != was.Pin() {
				t.Errorf("the key of another enrolment was replaced")
			}
		})
	}
}

func TestReviewCredentialsStayOutOfErrors(t *testing.T) {
	dir := t.TempDir()
	env := reviewEnv(dir, "a")
	file := filepath.Join(dir, "creds")
	require.NoError(t, os.WriteFile(file, []byte("username=u\npassword\nhunter2-geheim\n"), 0o644))
	env["HIKAE_SMB_CREDENTIALS"] = file
	_, text := reviewRun(t, env, "points", "--repo", "smb://127.0.0.1:1/share/x", "--json")
	_, text2 := reviewRun(t, env, "points", "--repo", "smb://127.0.0.1:1/share/x", "--json")
	if strings.Contains(text+text2, "hunter2") {
		t.Errorf("a line of the credentials file stands in the error")
	}
	require.NoError(t, os.WriteFile(file, []byte("username=u\npassword: hunter2-geheim\n"), 0o644))
	_, text = reviewRun(t, env, "points", "--repo", "smb://127.0.0.1:1/share/x")
	if strings.Contains(text, "hunter2") {
		t.Errorf("the password stands in the error")
	}
	_, text = reviewRun(t, env, "points", "--repo", "smb://u:hunter2-geheim@127.0.0.1:1/share/x", "--json")
	if strings.Contains(text, "hunter2") {
		t.Errorf("the URL's password stands in the error (smb)")
	}
	_, text = reviewRun(t, env, "points", "--repo", "mover://u:hunter2-geheim@127.0.0.1:1/x", "--json")
	if strings.Contains(text, "hunter2") {
		t.Errorf("the URL's password stands in the error (mover)")
	}
}

// A source's word that a point was made is no proof.
func TestReviewForgedCollection(t *testing.T) {
	forged := job.Result{Session: "999999999999999999-aaaaaaaa", Point: "0123456789abcdef0123456789abcdef", VM: "web1", Started: time.Now(),
		Disks: []job.DiskResult{{Key: "disk0", Size: 1 << 40, Moved: 1 << 40}}, Consistency: "application\x1b]0;owned\x07", Bottleneck: "source\x1b[2J"}
	id, book, at := reviewHostile(t, func(req wire.Message) (wire.Message, error) {
		data, err := json.Marshal(forged)
		return &wire.Collected{Result: data}, err
	})
	dir := t.TempDir()
	env := reviewEnv(dir, "b")
	r := filepath.Join(dir, "r")
	st, _ := reviewRun(t, env, "init", "--no-encryption", r)
	require.Zero(t, st)
	enrolDirect(t, env, id, book, at, "site-b")
	st, text := reviewRun(t, env, "backup", "--repo", r, "--name", "web1", "mover://"+at+"/site-b?image=web1")
	if st == 0 {
		_, list := reviewRun(t, env, "points", "--repo", r, "--json")
		t.Errorf("backup reported success; the repository holds: %s", list)
	}
	if strings.Contains(text, "\x1b") {
		t.Errorf("escape sequences of the source reach the terminal")
	}
	disk := filepath.Join(dir, "disk.raw")
	require.NoError(t, os.WriteFile(disk, bytes.Repeat([]byte("x"), 1<<20), 0o600))
	st, text = reviewRun(t, env, "backup", "--repo", r, "--name", "db1", disk)
	if strings.Contains(text, "not kept") || st != 0 {
		t.Errorf("the next session of this machine has no valid number any more: exit %d", st)
	}
}

func enrolDirect(t *testing.T, env map[string]string, id *trust.Identity, book *trust.Book, at, name string) string {
	t.Helper()
	token, err := book.AddToken(id.Pin(), name, trust.Full, time.Hour)
	require.NoError(t, err)
	once, err := token.Identity()
	require.NoError(t, err)
	dir := filepath.Join(env["HIKAE_STATE_DIR"], "movers", "at", folderName(at), folderName(name))
	mine, err := trust.LoadIdentity(dir)
	require.NoError(t, err)
	_, err = book.Enrol(once.Pin(), mine.PublicKey(), "")
	require.NoError(t, err)
	require.NoError(t, keepEnrolment(dir, enrolment{Address: at, Name: name, Role: "full", Mode: "trusted", Server: id.Pin().String()}))
	return dir
}

// "What breaks off in between goes on with the next command."
func TestReviewRotationBrokenOffThenCollect(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.raw")
	require.NoError(t, os.WriteFile(disk, bytes.Repeat([]byte("x"), 1<<20), 0o600))
	sessions, err := job.OpenSessions(filepath.Join(dir, "s"))
	require.NoError(t, err)
	id, book, at := reviewMover(t, mover.ServerOptions{Source: &images{files: map[string]string{"web1": disk}, sessions: sessions}})
	env := reviewEnv(dir, "b")
	mine := enrolDirect(t, env, id, book, at, "site-b")
	r := filepath.Join(dir, "r")
	st, _ := reviewRun(t, env, "init", "--no-encryption", r)
	require.Zero(t, st)
	backup := []string{"backup", "--repo", r, "--name", "web1", "mover://" + at + "/site-b?image=web1"}
	st, _ = reviewRun(t, env, backup...)
	require.Zero(t, st)

	// mover rotate, killed after the new key was used and before it was adopted
	next, err := trust.NextIdentity(mine)
	require.NoError(t, err)
	peers, err := book.Peers()
	require.NoError(t, err)
	require.NoError(t, book.Rotate(peers[0], next.PublicKey()))
	c, err := mover.Dial(t.Context(), at, &mover.DialOptions{Identity: next, ServerPin: id.Pin()})
	require.NoError(t, err)
	_, err = c.Health(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Close())

	st, text := reviewRun(t, env, backup...)
	if st != 0 {
		t.Errorf("a rotation that was broken off shuts the collector out: %s", text)
	}
	st, text = reviewRun(t, env, backup...)
	if st != 0 {
		t.Errorf("and again: %s", text)
	}
}

// A guest writes to the first sector of its raw disk. The mover that serves the disk lets out that disk and nothing else.
func TestReviewSourceLetsOutAnotherFile(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "db1.raw") // another VM's disk in the same folder
	require.NoError(t, os.WriteFile(secret, bytes.Repeat([]byte("SECRET-OF-DB1\n..."), 1<<16), 0o600))
	web := filepath.Join(dir, "web1.raw")
	out, err := exec.Command("qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", secret, web, "1M").CombinedOutput() // what the guest writes
	if err != nil {
		t.Skipf("%v %s", err, out)
	}
	fi, err := os.Stat(web)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(web, max(fi.Size(), 1<<20))) // the raw disk has its own size
	s := &images{files: map[string]string{"web1": web}}
	img, err := s.Open(t.Context(), "web1")
	if err != nil {
		t.Logf("refused: %v", err)
		return
	}
	defer img.Close()
	p := make([]byte, 64)
	_, err = img.ReadAt(t.Context(), p, 0)
	require.NoError(t, err)
	require.NotContains(t, string(p), "SECRET-OF-DB1")
}

// The hint of a blind target without a writer's key can be followed.
func TestReviewWriterKeyHint(t *testing.T) {
	env := reviewEnv(t.TempDir(), "a")
	st, text := reviewRun(t, env, "mover", "enrol", "127.0.0.1:1", "--writer-key", "FILE")
	require.NotContains(t, text, "--token-file is missing", st)
}
