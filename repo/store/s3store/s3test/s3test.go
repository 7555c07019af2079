// Package s3test starts a real S3 server for tests: the Versity gateway over a folder, which knows conditional writes,
// versions and Object Lock. It listens on this machine alone, with credentials of its own.
//
// The program is built once, from the module proxy, into the user's cache folder. Where that cannot be done the test is
// skipped, and says why. Fakes will not do: those at hand do not enforce locks.
package s3test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	module  = "github.com/versity/versitygw/cmd/versitygw"
	version = "v1.8.0"
)

// Server is a running server.
type Server struct {
	Host      string // address and port
	AccessKey string
	SecretKey string
	Dir       string // where the objects lie: Dir/bucket/key

	proc *exec.Cmd
	said *said
}

// Start starts a server that ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	program, err := find()
	if err != nil {
		t.Skipf("no S3 server: %v", err)
	}
	s := &Server{AccessKey: "test" + rand.Text()[:8], SecretKey: rand.Text(), Dir: filepath.Join(t.TempDir(), "data")}
	versions := filepath.Join(t.TempDir(), "versions")
	for _, dir := range []string{s.Dir, versions} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for try := 0; ; try++ { // somebody else may take the port that was free
		err := s.start(program, versions)
		if err == nil {
			break
		}
		if try == 2 {
			t.Skipf("no S3 server: %v", err)
		}
	}
	t.Cleanup(s.Stop)
	return s
}

func (s *Server) start(program, versions string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Host = l.Addr().String()
	l.Close()
	s.said = new(said)
	s.proc = exec.Command(program, "--quiet", "--keep-alive", "--port", s.Host, "posix", "--versioning-dir", versions, s.Dir)
	s.proc.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	s.proc.Stdout, s.proc.Stderr = s.said, s.said
	if err := s.proc.Start(); err != nil {
		return err
	}
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := client.Get("http://" + s.Host + "/")
		if err == nil {
			resp.Body.Close()
			return nil
		}
	}
	s.Stop()
	return fmt.Errorf("%s did not answer: %s", filepath.Base(program), s.said)
}

// Stop ends the server; ending it again is no error.
func (s *Server) Stop() {
	if s.proc.ProcessState == nil {
		_ = s.proc.Process.Kill()
		_ = s.proc.Wait()
	}
}

// Client is a plain client of the server, as anybody with its credentials can have.
func (s *Server) Client() (*minio.Core, error) {
	return minio.NewCore(s.Host, &minio.Options{Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: "us-east-1",
		Transport: &http.Transport{MaxIdleConnsPerHost: 64, WriteBufferSize: 128 << 10, ReadBufferSize: 128 << 10}})
}

// Kind is what a bucket keeps.
type Kind int

const (
	Plain     Kind = iota
	Versioned      // versions
	Locked         // versions, and locks
)

// Bucket makes a bucket and returns its name.
func (s *Server) Bucket(t testing.TB, kind Kind) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	name := "bucket-" + strings.ToLower(rand.Text()[:10])
	c, err := s.Client()
	if err == nil {
		err = c.MakeBucket(ctx, name, minio.MakeBucketOptions{ObjectLocking: kind == Locked})
	}
	if err == nil && kind == Versioned {
		err = c.EnableVersioning(ctx, name)
	}
	if err != nil {
		t.Fatalf("make bucket: %v", err)
	}
	return name
}

var building sync.Mutex

// find gives the program, and builds it where it is not there yet.
func find() (string, error) {
	if runtime.GOOS == "windows" {
		return "", errors.New("the server is not run on Windows")
	}
	if path, err := exec.LookPath("versitygw"); err == nil {
		return path, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "hikae-versitygw", version)
	path := filepath.Join(dir, "versitygw")
	building.Lock()
	defer building.Unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, build(dir, path)
}

// build installs into a folder of its own first: another process may be at it, or this one be ended.
func build(dir, path string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "install", module+"@"+version)
	cmd.Dir, cmd.Env = tmp, append(os.Environ(), "GOBIN="+tmp, "GOFLAGS=", "CGO_ENABLED=0", "GOOS=", "GOARCH=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go install %s@%s: %w: %s", module, version, err, bytes.TrimSpace(out[max(0, len(out)-300):]))
	}
	if err := os.Rename(filepath.Join(tmp, "versitygw"), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// said keeps the end of what the server said.
type said struct {
	mu   sync.Mutex
	last []byte
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = append(s.last, p...)
	s.last = s.last[max(0, len(s.last)-4096):]
	return len(p), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.last)
}
