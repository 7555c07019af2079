package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/stripe"
)

// closing is a store that says when it was closed.
type closing struct {
	store.Store
	closed chan struct{}
}

func (c *closing) Close() error {
	close(c.closed)
	return c.Store.Close()
}

// Four of six places say nothing for as long as they are asked, and two of them do not even heed their context. All are waited for at
// once, no longer than for one; and what is opened too late is closed again.
func TestPlacesThatHang(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := &stripeFile{names: []string{"a", "b", "c", "d", "e", "f"}, places: []string{"here", "here", "mute", "mute", "deaf", "deaf"}}
		var mu sync.Mutex
		var late []*closing // under mu
		begin := time.Now()
		list, errs := f.stores(t.Context(), -1, func(ctx context.Context, place string) (store.Store, error) {
			switch place {
			case "mute":
				<-ctx.Done()
				return nil, ctx.Err()
			case "deaf":
				time.Sleep(time.Hour)
				st := &closing{memstore.New(nil), make(chan struct{})}
				mu.Lock()
				defer mu.Unlock()
				late = append(late, st)
				return st, nil
			}
			return memstore.New(nil), nil
		})
		require.Equal(t, placePatience, time.Since(begin)) // the bubble's clock
		for i, here := range []bool{true, true, false, false, false, false} {
			require.Equal(t, here, list[i] != nil)
			require.Equal(t, here, errs[i] == nil)
		}
		require.ErrorIs(t, errs[4], errMute)
		require.ErrorContains(t, errs[5], "member f: it does not answer")
		time.Sleep(2 * time.Hour)
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, late, 2)
		for _, st := range late {
			<-st.closed
		}
		require.NoError(t, closeStores(list))
	})
}

// silentServer takes connections and says nothing.
func silentServer(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var mu sync.Mutex
	var conns []net.Conn
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
		}
	})
	return l.Addr().String()
}

// A set whose buckets and shares are on servers that take connections and say nothing is not opened, and it says why for each of them.
func TestStripeOnSilentServers(t *testing.T) {
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		t.Skip("long tier: it waits for servers that say nothing")
	}
	dir := t.TempDir()
	var lines []string
	var made []store.Store
	env := map[string]string{"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "B"}
	tl := &tool{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, env: func(k string) string { return env[k] }}
	for i := range 6 {
		path := filepath.Join(dir, fmt.Sprint(i))
		st, err := tl.initStore(t.Context(), path)
		require.NoError(t, err)
		made, lines = append(made, st), append(lines, fmt.Sprintf("m%d %s", i, path))
	}
	set, err := stripe.Init(t.Context(), made, stripe.InitOptions{Data: 4, Parity: 2, Labels: []string{"m0", "m1", "m2", "m3", "m4", "m5"}}, nil)
	require.NoError(t, err)
	require.NoError(t, set.Close())
	at := silentServer(t)
	for i := 2; i < 6; i++ {
		lines[i] = fmt.Sprintf("m%d s3://%s/bucket%d/hikae?tls=off", i, at, i)
	}
	file := filepath.Join(dir, "set.txt")
	require.NoError(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600))
	_, err = tl.openStripe(t.Context(), stripePrefix+file)
	require.ErrorIs(t, err, stripe.ErrTooFew)
	var told *outcome.Error
	require.ErrorAs(t, err, &told)
	for i := 2; i < 6; i++ {
		require.Contains(t, told.Text, fmt.Sprintf("member m%d: it does not answer", i))
	}
}
