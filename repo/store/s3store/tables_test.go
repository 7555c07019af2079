package s3store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
)

func TestOptionsHaveBounds(t *testing.T) {
	t.Parallel()
	want := Options{Connections: 16, Timeout: time.Minute, GiveUp: 10 * time.Minute, PartSize: 16 << 20, Lock: Compliance}
	for _, o := range []*Options{nil, {}, {Connections: -1}} {
		got, err := o.withDefaults()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, o := range []Options{{PartSize: 5 << 20}, {PartSize: 1 << 30}, {Lock: Governance}, {Timeout: 1}, {GiveUp: -1}, {Connections: 1}, {Connections: 256}} {
		got, err := o.withDefaults()
		require.NoError(t, err)
		require.Equal(t, Options{Connections: orElse(o.Connections, 16), Timeout: orElse(o.Timeout, time.Minute), GiveUp: orElse(o.GiveUp, 10*time.Minute),
			PartSize: orElse(o.PartSize, 16<<20), Lock: orElse(o.Lock, Compliance)}, got)
	}
	got, err := (&Options{Connections: 257}).withDefaults()
	require.NoError(t, err)
	require.Equal(t, 256, got.Connections)
	for _, o := range []Options{{PartSize: 5<<20 - 1}, {PartSize: 1<<30 + 1}, {PartSize: -1}, {Lock: "compliance"}, {Timeout: -1}} {
		_, err := o.withDefaults()
		require.ErrorIs(t, err, fs.ErrInvalid, o)
		_, err = newStore(Address{Host: "h", Bucket: "bucket"}, Static(Credentials{}), &o)
		require.ErrorIs(t, err, fs.ErrInvalid, o)
	}
	for _, at := range []Address{{}, {Host: "h", Bucket: "bucket"}} {
		_, err = Open(t.Context(), at, nil, nil)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	_, err = Open(t.Context(), Address{Host: "h", Bucket: "bucket"}, Static(Credentials{}), &Options{CA: []byte("none")})
	require.ErrorIs(t, err, fs.ErrInvalid)
}

func TestAddressesHaveBounds(t *testing.T) {
	t.Parallel()
	good := Address{Host: "h", Bucket: "bucket"}
	long := strings.Repeat(strings.Repeat("a", 99)+"/", store.MaxName/100-1) + strings.Repeat("a", 100)
	for _, change := range []func(*Address){
		func(a *Address) { a.Host = strings.Repeat("h", maxHost) },
		func(a *Address) { a.Prefix = long },
		func(a *Address) { a.Region = strings.Repeat("r", maxRegion) },
		func(a *Address) { a.PathStyle = true }, func(a *Address) { a.VirtualStyle = true },
	} {
		at := good
		change(&at)
		require.NoError(t, at.check(), at)
	}
	for _, change := range []func(*Address){
		func(a *Address) { a.Host = "" }, func(a *Address) { a.Host = strings.Repeat("h", maxHost+1) }, func(a *Address) { a.Host = "h@h" },
		func(a *Address) { a.Bucket = "" }, func(a *Address) { a.Prefix = long + "a" }, func(a *Address) { a.Prefix = "a//b" },
		func(a *Address) { a.Region = strings.Repeat("r", maxRegion+1) }, func(a *Address) { a.Region = "a b" },
		func(a *Address) { a.PathStyle, a.VirtualStyle = true, true },
	} {
		at := good
		change(&at)
		require.ErrorIs(t, at.check(), fs.ErrInvalid, at)
	}
	for raw, ok := range map[string]bool{"tls=on": true, "tls=off": true, "tls=no": false, "style=virtual": true, "path=style": false, "off=tls": false,
		"x=on": false, "x=path": false, "x=virtual": false, "x=off": false, "region=": true, "region": true, "%zz": false} {
		at, err := ParseAddress("s3://h/bucket?" + raw)
		require.Equal(t, ok, err == nil, raw)
		require.Equal(t, raw == "tls=off", at.Plain, raw)
		require.Equal(t, raw == "style=virtual", at.VirtualStyle, raw)
		require.False(t, at.PathStyle, raw)
	}
	for _, raw := range []string{"s3://u@h/bucket", "s3://h/bucket#f", "http://h/bucket", "s3:bucket/x", "s3://h:x/bucket", "://h/bucket"} {
		_, err := ParseAddress(raw)
		require.ErrorContains(t, err, "not an address", raw)
	}
}

func TestAddressMeans(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		at           Address
		region, base string
		lookup       minio.BucketLookupType
		written      string
	}{
		{Address{Host: "h", Bucket: "bucket"}, "us-east-1", "", minio.BucketLookupAuto, "s3://h/bucket"},
		{Address{Host: "s3.eu-central-1.amazonaws.com", Bucket: "bucket", Prefix: "a/b", PathStyle: true}, "eu-central-1", "a/b/", minio.BucketLookupPath,
			"s3://s3.eu-central-1.amazonaws.com/bucket/a/b?style=path"},
		{Address{Host: "s3.eu-central-1.amazonaws.com", Bucket: "bucket", Region: "home", VirtualStyle: true, Plain: true}, "home", "", minio.BucketLookupDNS,
			"s3://s3.eu-central-1.amazonaws.com/bucket?region=home&style=virtual&tls=off"},
	} {
		require.Equal(t, c.region, c.at.region())
		require.Equal(t, c.base, c.at.base())
		require.Equal(t, c.lookup, c.at.lookup())
		require.Equal(t, c.written, c.at.String())
	}
	s := apart(t, Options{})
	s.at.Prefix = "a"
	require.Equal(t, "s3.example.org/bucket/a", s.Place())
	require.Equal(t, "a/log/1", s.key("log/1"))
}

func TestParseRange(t *testing.T) {
	t.Parallel()
	for s, want := range map[string][2]int64{"bytes 0-9/100": {0, 100}, "bytes 5-9/10": {5, 10}, "bytes 9-9/10": {9, 10}} {
		first, size, ok := parseRange(s)
		require.True(t, ok, s)
		require.Equal(t, want, [2]int64{first, size}, s)
	}
	for _, s := range []string{"", "0-9/100", "bits 0-9/100", "bytes 0-9", "bytes 5/10", "bytes x-9/10", "bytes -9/10", "bytes 0-9/*", "bytes 0-9/-1",
		"bytes 5-9/3", "bytes 5-9/5", "bytes 0-9/99999999999999999999", "bytes -9223372036854775808-9/9"} {
		_, _, ok := parseRange(s)
		require.False(t, ok, s)
	}
}

func TestBoundsOfVersions(t *testing.T) {
	t.Parallel()
	require.True(t, sensible(0, ""))
	require.True(t, sensible(1, strings.Repeat("v", store.MaxVersionID)))
	require.False(t, sensible(-1, ""))
	require.False(t, sensible(0, strings.Repeat("v", store.MaxVersionID+1)))

	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	require.False(t, longAgo(now, now.Add(-deadAfter)))
	require.True(t, longAgo(now, now.Add(-deadAfter-1)))

	require.Equal(t, now, roundUp(now))
	require.Equal(t, now.Add(time.Second), roundUp(now.Add(1)))
	require.Equal(t, now, roundUp(now.In(time.FixedZone("", 3600))))
}

// What is remembered has a bound, and what was asked for last is remembered.
func TestKnownVersions(t *testing.T) {
	t.Parallel()
	k := newKnownVersions()
	name := func(i int) string { return fmt.Sprint("log/", i) }
	has := func(i int) bool {
		v, ok := k.get(name(i))
		require.True(t, !ok || v.Size == int64(i))
		return ok
	}
	for i := range maxKnown {
		k.put(name(i), store.Version{Size: int64(i)})
	}
	require.Len(t, k.one, maxKnown, "exactly as many")
	require.Empty(t, k.two)
	k.put(name(maxKnown), store.Version{Size: maxKnown})
	require.Len(t, k.one, 1)
	require.True(t, has(0) && has(maxKnown))
	k.put(name(1), store.Version{Size: 1})
	for _, i := range []int{0, 1, maxKnown} {
		k.forget(name(i))
		require.False(t, has(i), "in both of them")
	}
	require.True(t, has(2))
	for i := range maxKnown + 1 {
		k.put(name(maxKnown+i), store.Version{Size: int64(maxKnown + i)})
	}
	require.False(t, has(2))
	require.True(t, has(maxKnown))
}

// A circle of any length is met, wherever it begins, and what does not come back is none.
func TestCircle(t *testing.T) {
	t.Parallel()
	for length := 1; length <= 40; length++ {
		for lead := range 5 {
			var c circle
			step := func(i int) string {
				if i >= lead {
					i = lead + (i-lead)%length
				}
				return fmt.Sprint(i)
			}
			i := 0
			for ; !c.closed(step(i)); i++ {
				require.Less(t, i, 8*(length+lead), "length %d after %d", length, lead)
			}
			require.GreaterOrEqual(t, i, length, "before it is round")
		}
	}
	var c circle
	for i := range 1000 {
		require.False(t, c.closed(fmt.Sprint(i)))
	}
}

// Pages of one listing are counted, and no other requests.
func TestPagesHaveABound(t *testing.T) {
	t.Parallel()
	request := func(ctx context.Context, method, query string, status int) error {
		req, err := http.NewRequestWithContext(ctx, method, "http://s3.example.org/bucket?"+query, nil)
		require.NoError(t, err)
		return bound(req, &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader("x")), ContentLength: 1})
	}
	ctx := paged(t.Context())
	require.NoError(t, request(ctx, http.MethodGet, "prefix=a", http.StatusServiceUnavailable))
	require.NoError(t, request(ctx, http.MethodHead, "prefix=a", http.StatusOK))
	require.NoError(t, request(ctx, http.MethodGet, "prefix=a", http.StatusOK), "it was not answered before")
	require.ErrorIs(t, request(ctx, http.MethodGet, "prefix=a", http.StatusOK), ErrCircles)
	require.NoError(t, request(paged(t.Context()), http.MethodGet, "prefix=a", http.StatusOK), "another listing")
	for range 2 {
		require.NoError(t, request(t.Context(), http.MethodGet, "retention", http.StatusOK), "no listing")
	}
	ctx = paged(t.Context())
	ctx.Value(pagesKey{}).(*circle).seen = maxPages - 1
	require.NoError(t, request(ctx, http.MethodGet, "prefix=b", http.StatusOK), "the last")
	require.ErrorIs(t, request(ctx, http.MethodGet, "prefix=c", http.StatusOK), ErrCircles)
}

// What is no object's content has a bound, at exactly that length; an object has that of who reads it.
func TestAnswersHaveABound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method, query string
		status        int
		length        int64
		content       bool
	}{
		{"GET", "", 200, 5, true}, {"GET", "", 206, 0, true}, {"GET", "?versionId=v", 200, 5, true},
		{"GET", "", 200, -1, false}, {"GET", "?versionId=v&retention=", 200, 5, false}, {"GET", "?prefix=a", 200, 5, false},
		{"GET", "", 300, 5, false}, {"GET", "", 404, 5, false}, {"PUT", "", 200, 5, false}, {"DELETE", "?versionId=v", 200, 5, false},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://s3.example.org/bucket/key"+c.query, nil)
		require.NoError(t, err)
		resp := &http.Response{StatusCode: c.status, Body: io.NopCloser(bytes.NewReader(make([]byte, 10))), ContentLength: c.length}
		require.Equal(t, c.content, content(req, resp), c)
		require.NoError(t, bound(req, resp))
		_, is := resp.Body.(*bounded)
		require.Equal(t, !c.content, is)
	}
	zero := make([]byte, maxAnswer+1)
	for more := range 2 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://s3.example.org/bucket/key", nil)
		require.NoError(t, err)
		resp := &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(zero[:maxAnswer+more]))}
		require.NoError(t, bound(req, resp))
		n, err := io.Copy(io.Discard, resp.Body)
		require.Equal(t, more == 1, errors.Is(err, errTooLong), "%d: %v", more, err)
		require.EqualValues(t, maxAnswer+more, n)
	}
	b := &bounded{io.NopCloser(io.MultiReader(strings.NewReader("abc"), failing{})), 10}
	p := make([]byte, 2)
	n, err := b.Read(p)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	_, err = io.ReadAll(b)
	require.Equal(t, errStalled, err, "what went wrong is told")
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errStalled }

// Requests go to the host of the address, and to Amazon's other names for it; secrets are signed for nobody else.
func TestRequestsStayAtHome(t *testing.T) {
	t.Parallel()
	nowhere, cancel := context.WithCancel(t.Context())
	cancel() // so that none of them is sent
	for _, c := range []struct {
		home, host string
		stays      bool
	}{
		{"s3.example.org", "s3.example.org", true}, {"S3.Example.org:9000", "s3.example.ORG:9000", true}, {"s3.example.org", "bucket.s3.example.org", true},
		{"s3.example.org", "evil.org", false}, {"s3.example.org", "evils3.example.org", false}, {"s3.example.org", "s3.amazonaws.com", false},
		{"s3.amazonaws.com", "s3.eu-central-1.amazonaws.com", true}, {"s3.amazonaws.com", "evil.org", false}, {"s3.amazonaws.com", "evilamazonaws.com", false},
		{"s3.cn-north-1.amazonaws.com.cn", "bucket.s3.cn-north-1.amazonaws.com.cn", true}, {"s3.cn-north-1.amazonaws.com.cn", "s3.cn-northwest-1.amazonaws.com.cn", true},
	} {
		l, err := newLine(Address{Host: c.home}, Options{Timeout: time.Second, Connections: 1})
		require.NoError(t, err)
		req, err := http.NewRequestWithContext(nowhere, http.MethodGet, "http://"+c.host+"/bucket", nil)
		require.NoError(t, err)
		resp, err := l.RoundTrip(req)
		require.Nil(t, resp)
		require.Error(t, err)
		require.Equal(t, c.stays, errors.Is(err, context.Canceled), "%s from %s: %v", c.host, c.home, err)
		l.close()
	}
}

// pair are both ends of a connection over this machine.
func pair(t *testing.T) (near, far net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	near, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	far, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// A connection that stands still ends, one that moves does not, however long it takes altogether.
func TestConnectionsMove(t *testing.T) {
	t.Parallel()
	near, far := pair(t)
	c := &moving{near, 50 * time.Millisecond}
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, errStalled)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	n, err := c.Write(make([]byte, 64<<20)) // nobody reads it
	require.ErrorIs(t, err, errStalled)
	require.Less(t, n, 64<<20)

	near, far = pair(t)
	c = &moving{near, time.Minute}
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	got := make(chan []byte)
	go func() {
		all := make([]byte, len(want))
		_, _ = io.ReadFull(far, all)
		_, _ = far.Write(all[:10])
		far.Close()
		got <- all
	}()
	n, err = c.Write(want)
	require.NoError(t, err)
	require.Equal(t, len(want), n)
	require.True(t, bytes.Equal(want, <-got))
	back, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "0123456789", string(back))
	require.NoError(t, c.Close())
	for _, do := range []func([]byte) (int, error){c.Read, c.Write} {
		n, err = do(make([]byte, 1))
		require.Zero(t, n)
		require.ErrorIs(t, err, net.ErrClosed)
		require.NotErrorIs(t, err, errStalled)
	}
}

// After its request has ended a body gives nothing any more: the bytes are the caller's.
func TestBodyEnds(t *testing.T) {
	t.Parallel()
	b := newBody([]byte("ab"))
	p := make([]byte, 1)
	n, err := b.Read(p)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	b.end()
	n, err = b.Read(p)
	require.Equal(t, io.ErrClosedPipe, err)
	require.Zero(t, n)
	require.Equal(t, "4waSgw==", checksum([]byte("123456789")), "CRC-32C as RFC 3720 has it")
	s := apart(t, Options{})
	require.Equal(t, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", s.signedHash([]byte("abc")))
	s.at.Plain = false
	require.Empty(t, s.signedHash([]byte("abc")))
}

// The first way that has credentials gives them; a call that has ended asks no further.
func TestProviderOfCredentials(t *testing.T) {
	t.Parallel()
	good := Credentials{AccessKey: "a", SecretKey: "b", SessionToken: "c"}
	for _, c := range []Credentials{{}, {AccessKey: "a"}, {SecretKey: "b"}} {
		_, err := (&provider{from: Static(c), timeout: time.Second}).Retrieve()
		require.ErrorIs(t, err, ErrCredentials, "%#v", c)
		require.ErrorContains(t, err, "there are none")
	}
	failed := errors.New("failed")
	p := &provider{timeout: time.Minute, from: func(context.Context) (Credentials, error) { return good, failed }}
	_, err := p.Retrieve()
	require.ErrorIs(t, err, failed)
	require.NotContains(t, err.Error(), "none")
	require.True(t, p.IsExpired(), "they were not given")

	for _, c := range []struct {
		end     time.Duration
		expired bool
	}{{0, false}, {early + time.Hour, false}, {early - time.Second, true}, {-time.Hour, true}} {
		given := good
		if c.end != 0 {
			given.Expires = time.Now().Add(c.end)
		}
		p := &provider{timeout: time.Minute, from: func(ctx context.Context) (Credentials, error) {
			deadline, ok := ctx.Deadline()
			require.True(t, ok, "nobody is waited for without end")
			require.Positive(t, time.Until(deadline))
			return given, nil
		}}
		require.True(t, p.IsExpired(), "nobody was asked yet")
		v, err := p.Retrieve()
		require.NoError(t, err)
		require.Equal(t, "a b c", v.AccessKeyID+" "+v.SecretAccessKey+" "+v.SessionToken)
		require.Equal(t, c.expired, p.IsExpired(), c.end)
	}
	require.Equal(t, io.EOF, noURL(&url.Error{URL: "https://sEcrEt", Err: io.EOF}))
	require.Equal(t, io.EOF, noURL(io.EOF))
}
