package vmwaretest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
)

// Bounds of what is served by HTTP.
const (
	folderPrefix = "/folder/"
	uploadBytes  = 16 << 40 // the longest file that is taken
	sliceBytes   = 1 << 20  // how much is read and sent at once
)

// folder serves the files of datastores, as vCenter and ESXi do at /folder/: by datacenter and datastore in the address.
//
//	GET, HEAD   with one range, or whole; other ranges are passed over
//	PUT         creates or replaces a file whole; Content-Range is refused, since real hosts were not seen to take it
//	DELETE      one file
//
// A file that a running VM writes to is locked: 500, with the words of an I/O error. Which status real hosts answer is not known
// to us; what matters is that the answer is not the file. Lists of folders are refused.
type folder struct {
	s          *Server
	tickets    serviceTickets
	cookieLife atomic.Int64 // in nanoseconds; zero: as long as the session
	slots      atomic.Int64 // how many requests at once for one host; zero: any number
	mu         sync.Mutex
	busy       map[string]int64 // requests by the address that they come from
}

// SetCookieLife says how long after login the session's cookie opens datastore files; real hosts are known to refuse it after 30
// minutes although the session lives. Zero: as long as the session.
func (s *Server) SetCookieLife(d time.Duration) { s.extras.folder.cookieLife.Store(int64(d)) }

// SetHTTPRequests bounds how many requests for datastore files one client may have under way; more are answered 503. Zero: no
// bound.
func (s *Server) SetHTTPRequests(n int) { s.extras.folder.slots.Store(int64(n)) }

// ServeHTTP implements [http.Handler].
func (f *folder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cut, done := f.s.httpFault(w, r, folderPrefix)
	if done {
		return
	}
	leave, ok := f.enter(r)
	if !ok {
		http.Error(w, "too many connections", http.StatusServiceUnavailable)
		return
	}
	defer leave()
	if !f.allowed(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		http.Error(w, "not authenticated", http.StatusUnauthorized)
		return
	}
	file, err := f.locate(r)
	if err != nil {
		refuse(w, err)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		err = f.get(w, r, file, cut)
	case http.MethodPut:
		err = f.put(w, r, file, cut)
	case http.MethodDelete:
		err = f.remove(w, file)
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT, DELETE")
		err = &httpError{http.StatusMethodNotAllowed, "method not allowed"}
	}
	if err != nil {
		refuse(w, err)
	}
}

// httpFault lets a request meet its fault, named as "GET /folder/", and says whether that was its end. cut is after how many bytes
// of content the connection breaks; negative: it does not.
func (s *Server) httpFault(w http.ResponseWriter, r *http.Request, prefix string) (cut int64, done bool) {
	f := s.meet(r.Method+" "+prefix, "", func(f *Fault) bool { return f.Method != "" })
	if f == nil {
		return -1, false
	}
	s.pause(f.Delay)
	switch {
	case f.Status != 0:
		http.Error(w, http.StatusText(f.Status), f.Status)
		return -1, true
	case f.Cut:
		return max(f.Bytes, 0), false
	}
	return -1, false
}

// enter counts a request in, by the machine it comes from.
func (f *folder) enter(r *http.Request) (leave func(), ok bool) {
	limit := f.slots.Load()
	from, _, _ := strings.Cut(r.RemoteAddr, ":")
	f.mu.Lock()
	defer f.mu.Unlock()
	if limit > 0 && f.busy[from] >= limit {
		return nil, false
	}
	if f.busy == nil {
		f.busy = map[string]int64{}
	}
	f.busy[from]++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.busy[from]--; f.busy[from] == 0 {
			delete(f.busy, from)
		}
	}, true
}

// httpError is an answer that is no file.
type httpError struct {
	status int
	text   string
}

func (e *httpError) Error() string { return e.text }

func refuse(w http.ResponseWriter, err error) {
	var answer *httpError
	switch {
	case errors.As(err, &answer):
		http.Error(w, answer.text, answer.status)
	case errors.Is(err, fs.ErrNotExist):
		http.Error(w, "no such file", http.StatusNotFound)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrInvalid):
		http.Error(w, "forbidden", http.StatusForbidden)
	default:
		http.Error(w, "I/O error", http.StatusInternalServerError)
	}
}

// located is a file of a datastore.
type located struct {
	datastore string // its name
	name      string // in the datastore, clean
	path      string // of this machine
}

func (l located) String() string {
	return (&object.DatastorePath{Datastore: l.datastore, Path: l.name}).String()
}

// locate finds the file that a request is about. It stays within the datastore whatever the request says.
func (f *folder) locate(r *http.Request) (located, error) {
	name := strings.TrimPrefix(r.URL.Path, folderPrefix)
	query := r.URL.Query()
	if name == "" || strings.HasSuffix(name, "/") || query.Get("dsName") == "" {
		return located{}, &httpError{http.StatusForbidden, "lists are not given out"}
	}
	if !fs.ValidPath(name) || strings.ContainsAny(name, "\x00\\") {
		return located{}, &httpError{http.StatusBadRequest, "bad path"}
	}
	registry := f.s.reg
	ds := findDatastore(registry, query.Get("dcPath"), query.Get("dsName"))
	if ds == nil {
		return located{}, fs.ErrNotExist
	}
	return located{datastore: query.Get("dsName"), name: name, path: filepath.Join(ds.Summary.Url, filepath.FromSlash(name))}, nil
}

// findDatastore finds a datastore by the path of its datacenter and its name. A host alone has one datacenter, which need not be
// named.
func findDatastore(registry *simulator.Registry, datacenter, name string) *simulator.Datastore {
	datacenter = strings.Trim(datacenter, "/")
	for _, e := range registry.All("Datacenter") {
		dc, ok := e.(*simulator.Datacenter)
		if !ok || dc.Name != path.Base(datacenter) && (datacenter != "" || !registry.IsESX()) {
			continue
		}
		if ds, ok := registry.FindByName(name, dc.Datastore).(*simulator.Datastore); ok {
			return ds
		}
	}
	return nil
}

// get sends a file or a part of it.
func (f *folder) get(w http.ResponseWriter, r *http.Request, file located, cut int64) error {
	content, size, err := f.open(file)
	if err != nil {
		return err
	}
	defer content.Close()
	part, err := parseRange(r.Header.Get("Range"), size)
	if err != nil {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return &httpError{http.StatusRequestedRangeNotSatisfiable, err.Error()}
	}
	h := w.Header()
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(part.n, 10))
	status := http.StatusOK
	if part.partial {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.off, part.off+part.n-1, size))
	}
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return nil
	}
	send(w, io.NewSectionReader(content, part.off, part.n), cut)
	return nil
}

// send copies to a client. cut, where it is not negative, is after how many bytes the connection breaks; so it does where the
// content ends early, since the length was promised.
func send(w http.ResponseWriter, r io.Reader, cut int64) {
	if cut >= 0 {
		r = io.LimitReader(r, cut)
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, sliceBytes))
	if err != nil || cut >= 0 {
		if flusher, ok := w.(http.Flusher); ok {
			flusher.Flush()
		}
		panic(http.ErrAbortHandler)
	}
}

// served is an open file as the datastore shows it.
type served struct {
	io.ReaderAt
	io.Closer
}

// open opens a file for reading, unless it is locked.
func (f *folder) open(file located) (served, int64, error) {
	hold := f.s.holdOf(file.String())
	if hold.locked() {
		return served{}, 0, errLocked
	}
	fd, err := os.Open(file.path)
	if err != nil {
		return served{}, 0, err
	}
	info, err := fd.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return served{}, 0, errors.Join(err, fd.Close(), fs.ErrInvalid)
	}
	c := served{ReaderAt: fd, Closer: fd}
	if hold.key != "" {
		c.ReaderAt = encrypted(fd, hold.key, file.name)
	}
	return c, info.Size(), nil
}

var errLocked = &httpError{http.StatusInternalServerError, "the file is locked"}

// put takes a file whole. What is zero in it takes no room. A stream that ends early leaves what came, as on a real datastore.
func (f *folder) put(w http.ResponseWriter, r *http.Request, file located, cut int64) error {
	if r.Header.Get("Content-Range") != "" {
		return &httpError{http.StatusBadRequest, "a part of a file cannot be put"}
	}
	if f.s.inUseBelow(file.String()) {
		return errLocked
	}
	_, before := os.Stat(file.path)
	fd, err := os.OpenFile(file.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := writeSparse(r.Context(), fd, http.MaxBytesReader(w, r.Body, uploadBytes), cut)
	if err = errors.Join(err, fd.Truncate(n), fd.Close()); err != nil {
		return err
	}
	if cut >= 0 {
		panic(http.ErrAbortHandler)
	}
	if errors.Is(before, fs.ErrNotExist) {
		w.WriteHeader(http.StatusCreated)
	}
	return nil
}

// writeSparse writes a stream to a file but leaves zeros out, and says how long it was.
func writeSparse(ctx context.Context, w io.WriterAt, r io.Reader, cut int64) (int64, error) {
	if cut >= 0 {
		r = io.LimitReader(r, cut)
	}
	buf := make([]byte, 64<<10)
	for off := int64(0); ; {
		n, err := io.ReadFull(r, buf)
		if !allZero(buf[:n]) {
			if _, err := w.WriteAt(buf[:n], off); err != nil {
				return off, err
			}
		}
		off += int64(n)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return off, ctx.Err()
		case err != nil:
			return off, err
		}
	}
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// remove deletes one file.
func (f *folder) remove(w http.ResponseWriter, file located) error {
	if f.s.inUseBelow(file.String()) {
		return errLocked
	}
	info, err := os.Stat(file.path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fs.ErrInvalid
	}
	if err := os.Remove(file.path); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
