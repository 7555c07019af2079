package helper

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/helper/wire"
)

// R041, R050, R052, R103: a set is made, read by production names, finished and deleted.
func TestCycle(t *testing.T) {
	s, content := machine(t, 3<<20+17)
	var mu sync.Mutex
	var stages []string
	r, ended := dial(t, s, &DialOptions{Progress: func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, mark, p.Mark)
		stages = append(stages, p.Stage)
	}})
	require.Contains(t, r.Unverified(), "not yet verified on Windows")
	list, err := r.Components(t.Context())
	require.NoError(t, err)
	require.Equal(t, []hyperv.Component{{VM: web1, Caption: `Online\web1`, Method: hyperv.MethodOnline, Files: []string{disk}, Volumes: []string{`C:\`}}}, list)

	set := take(t, r)
	require.Equal(t, hyperv.SetOutcome{Method: hyperv.MethodOnline, Files: []string{disk}, Recovered: true}, set.Outcome(web1))
	require.ErrorIs(t, set.Outcome("other").Err, fs.ErrNotExist)
	require.Regexp(t, `^\{[0-9A-F-]{36}\}$`, set.ID())
	whole(t, set, content)
	_, err = set.Open(t.Context(), `C:\VMs\none`)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "HV1")
	entries, err := set.(*Set).List(t.Context(), `C:\VMs`)
	require.NoError(t, err)
	require.Equal(t, []Entry{{Name: "web1.vhdx", Size: int64(len(content))}}, entries)
	require.NoError(t, set.Finish(t.Context(), map[string]bool{web1: true}))
	require.NoError(t, set.Finish(t.Context(), nil), "once is enough")
	require.Contains(t, s.Calls(), "SetBackupSucceeded "+web1+" true")
	whole(t, set, content)
	require.NoError(t, set.Delete(t.Context()))
	require.NoError(t, set.Delete(t.Context()))
	_, err = set.Open(t.Context(), disk)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, r.DeleteSet(t.Context(), mark))
	require.NoError(t, r.Close())
	require.NoError(t, ended())
	require.Empty(t, s.Left())
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []string{"gather", "start", "prepare", "snapshot", "status"}, slices.Compact(stages), "each is told again while it lasts")
	_, err = r.Take(t.Context(), request())
	require.ErrorIs(t, err, ErrClosed)
}

// Many reads at once come back each with its own bytes.
func TestManyReads(t *testing.T) {
	s, content := machine(t, 2<<20)
	r, _ := dial(t, s, nil)
	img, err := take(t, r).Open(t.Context(), disk)
	require.NoError(t, err)
	var all sync.WaitGroup
	for k := range 48 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(k), 1))
			for range 3 {
				off, n := random.IntN(len(content)), random.IntN(1<<20)
				p := make([]byte, n)
				got, err := img.ReadAt(t.Context(), p, int64(off))
				want := content[off:min(off+n, len(content))]
				if got != len(want) || string(p[:got]) != string(want) || (err == io.EOF) != (got < n) {
					t.Errorf("%d bytes at %d: %d, %v", n, off, got, err)
				}
			}
		})
	}
	all.Wait()
	_, err = img.ReadAt(t.Context(), nil, -1)
	require.ErrorIs(t, err, fs.ErrInvalid)
	n, err := img.ReadAt(t.Context(), make([]byte, 1), img.Size()+5)
	require.Zero(t, n)
	require.ErrorIs(t, err, io.EOF)
}

// A Take whose context ends returns when the host has taken everything back.
func TestTakeCancelled(t *testing.T) {
	s, _ := machine(t, 100)
	inside := make(chan struct{}, 1)
	s.Fault = func(ctx context.Context, call string) error {
		if call != "DoSnapshotSet" {
			return nil
		}
		inside <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	r, _ := dial(t, s, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-inside; cancel() }()
	_, err := r.Take(ctx, request())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, s.Left())
	q := request()
	q.Limit = 30 * time.Millisecond
	_, err = r.Take(t.Context(), q)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, s.Left())
	s.Fault = nil
	take(t, r)
}

func TestFailures(t *testing.T) {
	s, _ := machine(t, 100)
	r, _ := dial(t, s, nil)
	for code, want := range map[requester.Code]error{
		requester.AccessDenied: fs.ErrPermission, requester.VolumeNotSupported: errors.ErrUnsupported, requester.WriterRetryable: ErrWriter, requester.ObjectNotFound: fs.ErrNotExist,
	} {
		s.Fault = func(_ context.Context, call string) error {
			if call == "DoSnapshotSet" {
				return &requester.Error{Op: call, Code: code, Text: "words", Hint: "advice", Again: true}
			}
			return nil
		}
		_, err := r.Take(t.Context(), request())
		require.ErrorIs(t, err, want)
		var e *Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, "HV1", e.Host)
		require.Equal(t, "advice", e.Failure.Hint)
		require.True(t, e.Retryable())
		require.ErrorContains(t, err, "words")
		require.ErrorContains(t, err, web1)
	}
	require.Empty(t, s.Left())
}

// R061: silence of a host that works is none, for it says that it goes on; the lease lasts.
func TestLeaseLasts(t *testing.T) {
	s, _ := machine(t, 100)
	r, _ := dial(t, s, &DialOptions{Lease: time.Second})
	set := take(t, r)
	time.Sleep(2500 * time.Millisecond)
	_, err := set.Open(t.Context(), disk)
	require.NoError(t, err)
}

// A link that breaks fails what waits, by name; Close is in order then.
func TestCut(t *testing.T) {
	s, _ := machine(t, 100)
	inside := make(chan struct{}, 1)
	r, ended := dial(t, s, nil)
	set := take(t, r)
	img, err := set.Open(t.Context(), disk)
	require.NoError(t, err)
	s.Fault = func(ctx context.Context, call string) error {
		if call == "DoSnapshotSet" {
			inside <- struct{}{}
			<-ctx.Done()
		}
		return nil
	}
	go func() { <-inside; r.conn.stream.(net.Conn).Close() }()
	q := request()
	q.Mark = "77777777777777777777777777"
	_, err = r.Take(t.Context(), q)
	require.ErrorIs(t, err, ErrLink)
	require.Error(t, ended())
	_, err = img.ReadAt(t.Context(), make([]byte, 1), 0)
	require.ErrorIs(t, err, ErrLink)
	require.NoError(t, img.Close())
	require.ErrorIs(t, set.Delete(t.Context()), ErrLink, "nobody could look")
	require.Empty(t, s.Left())
}

// A host that talks nonsense is left; nothing it says is believed.
func TestHostileHost(t *testing.T) {
	greet := func(t *testing.T, c net.Conn, m wire.Message) {
		f, err := wire.Read(c)
		require.NoError(t, err)
		answer, err := wire.Encode(f.Call, m)
		require.NoError(t, err)
		require.NoError(t, wire.Write(c, answer))
	}
	fine := &wire.HelloAnswer{Version: wire.Version, Host: "HV1"}
	for name, host := range map[string]func(t *testing.T, c net.Conn){
		"another version": func(t *testing.T, c net.Conn) { greet(t, c, &wire.HelloAnswer{Version: 7}) },
		"another kind":    func(t *testing.T, c net.Conn) { greet(t, c, &wire.Done{Of: wire.KindPing}) },
		"a failure":       func(t *testing.T, c net.Conn) { greet(t, c, &wire.Failure{Code: wire.Failed, Message: "no"}) },
		"garbage": func(_ *testing.T, c net.Conn) {
			go io.Copy(io.Discard, c)
			c.Write([]byte("HTTP/1.1 400 Bad Request\r\n"))
		},
		"its end": func(_ *testing.T, c net.Conn) { c.Close() },
		"an answer that nobody waits for": func(t *testing.T, c net.Conn) {
			greet(t, c, fine)
			f, _ := wire.Encode(99, &wire.Done{Of: wire.KindPing})
			_ = wire.Write(c, f)
		},
		"more bytes than were asked for": func(t *testing.T, c net.Conn) {
			greet(t, c, fine)
			greet(t, c, &wire.TakeAnswer{Set: 1, ID: "{1}"})
			greet(t, c, &wire.OpenAnswer{File: 2, Size: 4})
			greet(t, c, &wire.ReadAnswer{Data: make([]byte, 5)})
		},
		"fewer bytes than there are": func(t *testing.T, c net.Conn) {
			greet(t, c, fine)
			greet(t, c, &wire.TakeAnswer{Set: 1, ID: "{1}"})
			greet(t, c, &wire.OpenAnswer{File: 2, Size: 4})
			greet(t, c, &wire.ReadAnswer{Data: make([]byte, 3)})
		},
		"a file of half of everything": func(t *testing.T, c net.Conn) {
			greet(t, c, fine)
			greet(t, c, &wire.TakeAnswer{Set: 1, ID: "{1}"})
			greet(t, c, &wire.OpenAnswer{File: 2, Size: 1<<63 - 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			served := make(chan struct{})
			go func() { defer close(served); host(t, theirs); theirs.Close() }()
			defer func() { <-served }()
			require.Error(t, cycle(t, ours))
		})
	}
}

// cycle goes as far as a host lets it.
func cycle(t *testing.T, stream io.ReadWriteCloser) error {
	r, err := Dial(t.Context(), stream, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	set, err := r.Take(t.Context(), request())
	if err != nil {
		return err
	}
	img, err := set.Open(t.Context(), disk)
	if err != nil {
		return err
	}
	_, err = img.ReadAt(t.Context(), make([]byte, 4), 0)
	return err
}

// Captions of each generation's writer.
func TestMethods(t *testing.T) {
	for caption, want := range map[string]hyperv.Method{
		`Online\web1`: hyperv.MethodOnline, `Offline\web1`: hyperv.MethodOffline, `Saved State\x`: hyperv.MethodSaved,
		`Backup Using Child Partition Snapshot\web\1`: hyperv.MethodOnline, `Backup Using Saved State\web1`: hyperv.MethodSaved,
		`Host Component`: hyperv.MethodUnknown, "": hyperv.MethodUnknown, `Onlineweb1`: hyperv.MethodUnknown, "online": hyperv.MethodUnknown,
	} {
		require.Equal(t, want, methodOf(caption), caption)
	}
}
