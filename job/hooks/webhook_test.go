package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var secret = []byte("the two of us know it")

var failed = Call{Hook: AfterVM, Job: "nightly", Run: "r1", VM: "web1", Time: time.Unix(1795399200, 0), State: "failed", Error: "no route\nto host"}

func TestPostIsSignedAndWhole(t *testing.T) {
	var got Call
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		assert.NoError(t, Verify(r.Header.Get(SignatureHeader), body, secret, time.Now()))
		assert.Equal(t, "application/json", r.Header.Get("Content-Type"))
		assert.NotEmpty(t, r.Header.Get(DeliveryHeader))
		assert.NoError(t, json.Unmarshal(body, &got))
	}))
	defer server.Close()
	hook := Webhook{URL: server.URL + "/in?key=hidden", Secret: secret, Transport: server.Client().Transport}
	r, err := hook.Send(t.Context(), failed)
	require.NoError(t, err)
	assert.Equal(t, 1, r.Attempts)
	assert.Equal(t, 200, r.Exit)
	assert.Empty(t, r.Error)
	assert.Equal(t, server.URL+"/in", r.What, "what follows the path is often a secret")
	assert.Equal(t, failed.Error, got.Error)
	assert.Equal(t, "web1", got.VM)
	assert.True(t, got.Time.Equal(failed.Time))
}

func TestWhatIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		name     string
		statuses []int // one for each try; the last again and again
		tries    int
		lost     bool
	}{
		{"busy, then well", []int{503, 500, 204}, 3, false},
		{"asked to slow down", []int{429, 200}, 2, false},
		{"never well", []int{502}, 4, true},
		{"refused", []int{401}, 1, true},
		{"gone", []int{410}, 1, true},
		{"elsewhere", []int{302}, 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var tries atomic.Int32
			var first atomic.Value
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/" {
					t.Errorf("the redirect was followed")
				}
				id := r.Header.Get(DeliveryHeader)
				if first.CompareAndSwap(nil, id); first.Load() != id {
					t.Errorf("one delivery has two ids")
				}
				n := int(tries.Add(1)) - 1
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.statuses[min(n, len(c.statuses)-1)])
				io.WriteString(w, "because")
			}))
			defer server.Close()
			hook := Webhook{URL: server.URL + "/", Plain: true, Attempts: 4, FirstWait: time.Millisecond}
			r, err := hook.Send(t.Context(), failed)
			require.Equal(t, c.lost, err != nil, "%v", err)
			require.Equal(t, c.tries, r.Attempts)
			require.Equal(t, c.tries, int(tries.Load()))
			if c.lost {
				status, ok := errors.AsType[*StatusError](err)
				require.True(t, ok)
				require.Equal(t, c.statuses[len(c.statuses)-1], status.Status)
				require.Equal(t, "because", r.Output)
				require.Contains(t, r.Error, strconv.Itoa(status.Status))
			}
		})
	}
}

func TestPostDeadlines(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(release)
	hook := Webhook{URL: server.URL, Plain: true, Deadline: 50 * time.Millisecond}
	_, err := hook.Send(t.Context(), failed)
	require.ErrorIs(t, err, ErrDeadline)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = hook.Send(ctx, failed)
	require.ErrorIs(t, err, context.Canceled)

	nobody := Webhook{URL: "http://127.0.0.1:1/secret-path?secret", Plain: true, FirstWait: time.Hour, Deadline: 100 * time.Millisecond}
	begun := time.Now()
	r, err := nobody.Send(t.Context(), failed)
	require.ErrorIs(t, err, ErrDeadline)
	require.Less(t, time.Since(begun), 10*time.Second)
	require.NotContains(t, r.Error, "?secret")
	require.Contains(t, r.Error, "refused", "what it met says more than that it took too long")
}

func TestOnlyTLSUnlessToldSo(t *testing.T) {
	_, err := (&Webhook{URL: "http://127.0.0.1:1/"}).Send(t.Context(), failed)
	require.ErrorIs(t, err, fs.ErrPermission)
	for _, bad := range []string{"", "://", "ftp://host/", "https://", "host/path"} {
		_, err := (&Webhook{URL: bad}).Send(t.Context(), failed)
		require.ErrorIs(t, err, fs.ErrInvalid, bad)
	}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	server.Config.ErrorLog = nil
	_, err = (&Webhook{URL: server.URL, Attempts: 1}).Send(t.Context(), failed)
	require.ErrorContains(t, err, "certificate", "one that nobody vouches for")
}

func TestVerify(t *testing.T) {
	now, body := time.Unix(1795399200, 0), []byte(`{"hook":"after-job"}`)
	good := Sign(body, secret, now)
	require.NoError(t, Verify(good, body, secret, now))
	require.NoError(t, Verify(good, body, secret, now.Add(Tolerance)))
	for name, err := range map[string]error{
		"old":                   Verify(good, body, secret, now.Add(Tolerance+time.Second)),
		"from the time to come": Verify(good, body, secret, now.Add(-Tolerance-time.Second)),
		"another body":          Verify(good, []byte(`{"hook":"after-jobb"}`), secret, now),
		"another secret":        Verify(good, body, []byte("x"), now),
		"no secret":             Verify(Sign(body, nil, now), body, nil, now),
		"another time":          Verify(strings.Replace(good, "t=1795399200", "t=1795399201", 1), body, secret, now),
		"empty":                 Verify("", body, secret, now),
		"half":                  Verify("t=1795399200", body, secret, now),
		"no hex":                Verify("t=1795399200,v1=zz", body, secret, now),
	} {
		require.ErrorIs(t, err, ErrSignature, name)
	}
}

// The receiver's lines in the package comment, run as they stand.
func TestVerifyInPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("needs python3")
	}
	program := `
import hashlib, hmac, sys, time
header, secret, body = sys.argv[1], sys.argv[2].encode(), sys.argv[3].encode()
t, v1 = (part.split("=", 1)[1] for part in header.split(","))
want = hmac.new(secret, t.encode() + b"." + body, hashlib.sha256).hexdigest()
ok = hmac.compare_digest(want, v1) and abs(time.time() - int(t)) <= 300
sys.exit(0 if ok else 1)`
	body := string(failed.JSON())
	require.NoError(t, exec.Command(python, "-c", program, Sign([]byte(body), secret, time.Now()), string(secret), body).Run())
	require.Error(t, exec.Command(python, "-c", program, Sign([]byte(body), secret, time.Now()), "another", body).Run())
}

func FuzzVerify(f *testing.F) {
	f.Add(Sign([]byte("{}"), secret, time.Unix(1, 0)), []byte("{}"))
	f.Add("t=,v1=", []byte{})
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		at := time.Unix(1795399200, 0)
		if Verify(header, body, secret, at) == nil {
			t.Fatalf("%q was made without the secret", header)
		}
		require.NoError(t, Verify(Sign(body, secret, at), body, secret, at))
	})
}
