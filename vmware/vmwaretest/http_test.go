package vmwaretest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// address is that of a datastore's file.
func (r *rig) address(file string) string {
	r.t.Helper()
	ds, name, ok := strings.Cut(strings.TrimPrefix(file, "["), "] ")
	require.True(r.t, ok, file)
	dc := "DC0"
	if r.s.Options().ESX {
		dc = "ha-datacenter"
	}
	u := url.URL{Scheme: "https", Host: r.s.URL().Host, Path: folderPrefix + name, RawQuery: url.Values{"dcPath": {dc}, "dsName": {ds}}.Encode()}
	return u.String()
}

// file makes a request for a datastore's file, and returns its answer and what came.
func (r *rig) file(client *http.Client, method, address string, body io.Reader, header ...string) (*http.Response, []byte, error) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.ctx, method, address, body)
	require.NoError(r.t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return res, got, err
}

func (r *rig) web() *http.Client { return &r.c.Client.Client }

// stranger is a client without a session.
func (r *rig) stranger() *http.Client {
	c := &http.Client{Transport: r.web().Transport.(*http.Transport).Clone()}
	r.t.Cleanup(c.CloseIdleConnections)
	return c
}

func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return p
}

// TestFolderReads: whole files, ranges and their ends, on vCenter and on a host alone.
func TestFolderReads(t *testing.T) {
	for _, esx := range []bool{false, true} {
		t.Run(fmt.Sprintf("esx=%v", esx), func(t *testing.T) {
			r := newRig(t, &Options{ESX: esx, DiskBytes: 1 << 20, PoweredOff: true})
			d := r.s.VM("web0").Disk(0)
			want := pattern(1<<20, 1)
			require.NoError(t, d.Write(0, want))
			flat := r.address(strings.TrimSuffix(d.File(), ".vmdk") + "-flat.vmdk")

			res, got, err := r.file(r.web(), "GET", flat, nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.True(t, bytes.Equal(want, got))
			for _, c := range []struct {
				header string
				status int
				off, n int
			}{
				{"bytes=0-0", 206, 0, 1}, {"bytes=512-1023", 206, 512, 512}, {"bytes=1048575-", 206, 1048575, 1}, {"bytes=1048575-9999999", 206, 1048575, 1},
				{"bytes=-10", 206, 1048566, 10}, {"bytes=-9999999", 206, 0, 1 << 20}, {"bytes=1048576-", 416, 0, 0}, {"bytes=-0", 416, 0, 0},
				{"bytes=0-1,5-6", 200, 0, 1 << 20}, {"bytes=5-1", 200, 0, 1 << 20}, {"lines=1-2", 200, 0, 1 << 20}, {"bytes=99999999999999999999-", 200, 0, 1 << 20},
			} {
				res, got, err := r.file(r.web(), "GET", flat, nil, "Range", c.header)
				require.NoError(t, err, c.header)
				require.Equal(t, c.status, res.StatusCode, c.header)
				switch c.status {
				case 416:
					require.Equal(t, "bytes */1048576", res.Header.Get("Content-Range"))
				case 206:
					require.Equal(t, fmt.Sprintf("bytes %d-%d/1048576", c.off, c.off+c.n-1), res.Header.Get("Content-Range"))
					fallthrough
				default:
					require.True(t, bytes.Equal(want[c.off:c.off+c.n], got), c.header)
				}
			}
			res, got, err = r.file(r.web(), "HEAD", flat, nil)
			require.NoError(t, err)
			require.Equal(t, int64(1<<20), res.ContentLength)
			require.Empty(t, got)
		})
	}
}

// TestFolderRefuses: strangers, lists, what is not there, what leads out, methods that there are none of.
func TestFolderRefuses(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20, PoweredOff: true})
	file := r.address(r.s.VM("web0").Disk(0).File())
	for _, c := range []struct {
		method, address string
		status          int
	}{
		{"GET", strings.Replace(file, "web0.vmdk", "web9.vmdk", 1), 404},
		{"GET", strings.Replace(file, "dcPath=DC0", "dcPath=DC9", 1), 404},
		{"GET", strings.Replace(file, "dsName=", "dsName=other", 1), 404},
		{"GET", strings.Replace(file, "web0/web0.vmdk", "", 1), 403},
		{"GET", strings.Replace(file, "web0/web0.vmdk", "web0/", 1), 403},
		{"GET", strings.Replace(file, "web0/web0.vmdk", "web0", 1), 403},
		{"GET", strings.Replace(file, "web0/web0.vmdk", "web0/%2e%2e/%2e%2e/%2e%2e/etc/passwd", 1), 400},
		{"POST", file, 405}, {"PATCH", file, 405}, {"PROPFIND", file, 405},
	} {
		res, _, err := r.file(r.web(), c.method, c.address, nil)
		require.NoError(t, err, c.address)
		require.Equal(t, c.status, res.StatusCode, "%s %s", c.method, c.address)
	}
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"} {
		res, got, err := r.file(r.stranger(), method, file, nil)
		require.NoError(t, err)
		require.Equal(t, 401, res.StatusCode, method)
		require.NotContains(t, string(got), "createType")
	}
	res, _, err := r.file(r.stranger(), "GET", file, nil, "Cookie", sessionCookie+"=made-up")
	require.NoError(t, err)
	require.Equal(t, 401, res.StatusCode)
}

// TestFolderLocks: what a running VM writes to cannot be read, what its snapshot pins can (facts 1 and 2.1).
func TestFolderLocks(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20})
	v := r.s.VM("web0")
	d := v.Disk(0)
	want := pattern(1<<20, 2)
	require.NoError(t, d.Write(0, want))
	flat := r.address(strings.TrimSuffix(d.File(), ".vmdk") + "-flat.vmdk")
	status := func(method, address string) int {
		res, _, err := r.file(r.web(), method, address, nil)
		require.NoError(t, err)
		return res.StatusCode
	}
	require.Equal(t, 500, status("GET", flat))
	require.Equal(t, 200, status("GET", r.address(d.File())), "a descriptor is not locked")

	snap := r.create(v, false)
	require.NoError(t, d.Write(0, pattern(4096, 3)))
	_, got, err := r.file(r.web(), "GET", flat, nil)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "the pinned state")
	delta := r.address(strings.TrimSuffix(d.File(), ".vmdk") + "-sesparse.vmdk")
	require.Equal(t, 500, status("GET", delta), "the delta is what the guest writes to")
	require.Equal(t, 500, status("DELETE", flat))
	require.Equal(t, 500, status("PUT", flat))
	require.NoError(t, v.PowerOff())
	require.Equal(t, 200, status("GET", delta))
	require.NoError(t, r.remove(snap, false))
}

// TestFolderWrites: a file is put whole, replaced whole, and deleted.
func TestFolderWrites(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20, PoweredOff: true})
	d := r.s.VM("web0").Disk(0)
	file := strings.TrimSuffix(d.File(), "web0.vmdk") + "notes.bin"
	want := append(make([]byte, 300_000), pattern(100_001, 5)...)
	for _, status := range []int{201, 200} {
		res, _, err := r.file(r.web(), "PUT", r.address(file), bytes.NewReader(want))
		require.NoError(t, err)
		require.Equal(t, status, res.StatusCode)
		_, got, err := r.file(r.web(), "GET", r.address(file), nil)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		want = want[:250_000]
	}
	res, _, err := r.file(r.web(), "PUT", r.address(file), strings.NewReader("part"), "Content-Range", "bytes 0-3/100")
	require.NoError(t, err)
	require.Equal(t, 400, res.StatusCode)

	flat := strings.TrimSuffix(d.File(), ".vmdk") + "-flat.vmdk"
	disk := pattern(1<<20, 6)
	res, _, err = r.file(r.web(), "PUT", r.address(flat), bytes.NewReader(disk))
	require.NoError(t, err)
	require.Equal(t, 200, res.StatusCode)
	got, err := d.Read(0, 1<<20)
	require.NoError(t, err)
	require.True(t, bytes.Equal(disk, got), "the guest reads what was put")

	res, _, err = r.file(r.web(), "DELETE", r.address(file), nil)
	require.NoError(t, err)
	require.Equal(t, 204, res.StatusCode)
	res, _, err = r.file(r.web(), "GET", r.address(file), nil)
	require.NoError(t, err)
	require.Equal(t, 404, res.StatusCode)
}

// TestFolderTickets: a generic service ticket opens one request, and no other.
func TestFolderTickets(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20, PoweredOff: true})
	file := r.address(r.s.VM("web0").Disk(0).File())
	ticket := func(method string) string {
		res, err := methods.AcquireGenericServiceTicket(r.ctx, r.c, &types.AcquireGenericServiceTicket{
			This: *r.c.ServiceContent.SessionManager, Spec: &types.SessionManagerHttpServiceRequestSpec{Method: method, Url: file},
		})
		require.NoError(t, err)
		return ticketCookie + "=" + res.Returnval.Id
	}
	status := func(method, cookie string) int {
		res, _, err := r.file(r.stranger(), method, file, nil, "Cookie", cookie)
		require.NoError(t, err)
		return res.StatusCode
	}
	once := ticket("httpGet")
	require.Equal(t, 200, status("GET", once))
	require.Equal(t, 401, status("GET", once), "it was for once")
	require.Equal(t, 401, status("DELETE", ticket("httpGet")), "it was for another method")
	_, err := methods.AcquireGenericServiceTicket(r.ctx, r.c, &types.AcquireGenericServiceTicket{
		This: *r.c.ServiceContent.SessionManager, Spec: &types.SessionManagerHttpServiceRequestSpec{Method: "httpGet", Url: "::"},
	})
	require.Error(t, err)
}

// TestFolderTrouble: cookies that die, too many requests, 503, and streams that are cut.
func TestFolderTrouble(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20, PoweredOff: true})
	d := r.s.VM("web0").Disk(0)
	want := pattern(1<<20, 4)
	require.NoError(t, d.Write(0, want))
	flat := r.address(strings.TrimSuffix(d.File(), ".vmdk") + "-flat.vmdk")

	r.s.Fail(Fault{Method: "GET /folder/", Status: 503, Times: 2})
	for _, status := range []int{503, 503, 200} {
		res, _, err := r.file(r.web(), "GET", flat, nil)
		require.NoError(t, err)
		require.Equal(t, status, res.StatusCode)
	}
	r.s.Fail(Fault{Method: "GET /folder/", Cut: true, Bytes: 70_000})
	_, got, err := r.file(r.web(), "GET", flat, nil)
	require.Error(t, err, "the stream was cut")
	require.True(t, bytes.Equal(want[:70_000], got))

	r.s.Fail(Fault{Method: "PUT /folder/", Cut: true, Bytes: 1000})
	file := r.address(strings.TrimSuffix(d.File(), "web0.vmdk") + "half.bin")
	_, _, err = r.file(r.web(), "PUT", file, bytes.NewReader(want))
	require.Error(t, err)
	_, got, err = r.file(r.web(), "GET", file, nil)
	require.NoError(t, err)
	require.Len(t, got, 1000, "what came before the cut is there")

	r.s.SetHTTPRequests(1)
	r.s.Fail(Fault{Method: "GET /folder/", Delay: 0, Times: 1})
	leave, ok := r.s.extras.folder.enter(&http.Request{RemoteAddr: "127.0.0.1:1"})
	require.True(t, ok)
	res, _, err := r.file(r.web(), "GET", flat, nil)
	require.NoError(t, err)
	require.Equal(t, 503, res.StatusCode)
	leave()
	r.s.SetHTTPRequests(0)

	r.s.SetCookieLife(time.Nanosecond)
	res, _, err = r.file(r.web(), "GET", flat, nil)
	require.NoError(t, err)
	require.Equal(t, 401, res.StatusCode)
	r.s.SetCookieLife(0)
	r.s.ExpireSessions()
	res, _, err = r.file(r.web(), "GET", flat, nil)
	require.NoError(t, err)
	require.Equal(t, 401, res.StatusCode)
}

// TestCiphertext: what an encrypted disk's file shows is not its content, and any range of it fits the whole.
func TestCiphertext(t *testing.T) {
	plain := pattern(10_000, 9)
	c := encrypted(bytes.NewReader(plain), "key-1", "a.vmdk")
	whole := make([]byte, len(plain))
	_, err := c.ReadAt(whole, 0)
	require.NoError(t, err)
	require.False(t, bytes.Contains(whole, plain[:64]))
	for _, off := range []int64{0, 1, 15, 16, 17, 4096, 9999} {
		part := make([]byte, min(100, len(plain)-int(off)))
		_, err := c.ReadAt(part, off)
		require.NoError(t, err)
		require.Equal(t, whole[off:int(off)+len(part)], part, off)
	}
	back := make([]byte, len(plain))
	_, err = encrypted(bytes.NewReader(whole), "key-1", "a.vmdk").ReadAt(back, 0)
	require.NoError(t, err)
	require.Equal(t, plain, back)
}
