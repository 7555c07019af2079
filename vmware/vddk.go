package vmware

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"

	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
)

// VDDKOptions say where the user's own VDDK is, and how it is used. VMware does not let others hand it out.
type VDDKOptions struct {
	// Libdir is the folder that VDDK was unpacked to: the one with lib64 in it.
	Libdir string
	// Nbdkit is the program. Empty: nbdkit, where the system looks for programs.
	Nbdkit string
	// Transports are VDDK's own modes, such as "san". Empty: "file:san:nbdssl". Of those beside, nbd sends the content in
	// the clear, and hotadd leaves its disks attached when it is killed, where nobody's journal knows of them.
	Transports string
	// User and Password log VDDK in. Empty: as the client did, which must have been by a password.
	User, Password string
}

const (
	vddkStart = 90 * time.Second // VDDK may take long to log in
	vddkStop  = 30 * time.Second
)

// byVDDK reads and writes disks by the user's own VDDK: an nbdkit with its vddk plugin, one process for each disk, which
// talks to us over a socket that only this user can open. It can do what VDDK can: read from a SAN above all.
//
// No VDDK was ever met by this code: only an nbdkit that stood in for it, and what its manual says.
type byVDDK struct {
	opts  VDDKOptions
	probe func() error // once: whether the programs are there
}

func newVDDK(opts *VDDKOptions) *byVDDK {
	t := &byVDDK{}
	if opts != nil {
		t.opts = *opts
	}
	if t.opts.Nbdkit == "" {
		t.opts.Nbdkit = "nbdkit"
	}
	if t.opts.Transports == "" {
		t.opts.Transports = "file:san:nbdssl"
	}
	t.probe = sync.OnceValue(t.look)
	return t
}

func (t *byVDDK) Name() string { return VDDK }

// Check implements [Transport].
func (t *byVDDK) Check(_ context.Context, p *Pinned) error {
	if err := t.probe(); err != nil {
		return err
	}
	if user, _ := t.credential(p); user == "" {
		return t.unfit("VDDK logs in by a password, and the session has none", "give one to VDDK")
	}
	if p.Snapshot.Value == "" && p.PoweredOn {
		return t.unfit("the VM runs, and the host lets nobody read a disk that it writes to", "")
	}
	return nil
}

// CheckTarget implements [Writer].
func (t *byVDDK) CheckTarget(ctx context.Context, p *Pinned) error { return t.Check(ctx, p) }

func (t *byVDDK) unfit(reason, hint string) error {
	return &UnfitError{Transport: VDDK, Reason: reason, Hint: hint}
}

// look looks for what the user has to bring.
func (t *byVDDK) look() error {
	switch {
	case t.opts.Libdir == "":
		return t.unfit("no VDDK was named", "download it from its maker, and name its folder")
	case runtime.GOOS == "windows":
		return t.unfit("there is no nbdkit for this system", "")
	}
	if !hasVDDK(t.opts.Libdir) {
		return t.unfit(t.opts.Libdir+" holds no VDDK", "it is the folder with lib64 in it")
	}
	if _, err := exec.LookPath(t.opts.Nbdkit); err != nil {
		return t.unfit("there is no nbdkit: "+err.Error(), "install it")
	}
	ctx, cancel := context.WithTimeout(context.Background(), vddkStop)
	defer cancel()
	cmd := exec.CommandContext(ctx, t.opts.Nbdkit, "--dump-plugin", "vddk")
	cmd.Env, cmd.WaitDelay = vddkEnv(), time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return t.unfit("nbdkit has no vddk plugin: "+lastWords(out, ""), "install nbdkit-vddk-plugin")
	}
	return nil
}

// hasVDDK looks for the one library that is VDDK's front.
func hasVDDK(dir string) bool {
	for _, sub := range []string{"lib64", "lib32", "."} {
		found, err := filepath.Glob(filepath.Join(globQuote(dir), sub, "libvixDiskLib.so*"))
		if err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}

func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

func (t *byVDDK) credential(p *Pinned) (user, password string) {
	if t.opts.User != "" {
		return t.opts.User, t.opts.Password
	}
	return p.Client.login.who.User, p.Client.login.who.Password
}

// Open implements [Transport]. What VDDK does on the host ends with its process.
func (t *byVDDK) Open(ctx context.Context, p *Pinned) (pipe.Image, error) {
	d, err := t.start(ctx, p, true)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", VDDK, err)
	}
	return d, nil
}

// OpenTarget implements [Writer]. The target has a base: what the disk holds.
func (t *byVDDK) OpenTarget(ctx context.Context, p *Pinned) (pipe.Target, error) {
	d, err := t.start(ctx, p, false)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", VDDK, err)
	}
	target, err := d.Client.Target(&nbd.TargetOptions{Base: true})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", VDDK, err), d.Close())
	}
	return &vddkTarget{target, d}, nil
}

// start starts the process and connects to it.
func (t *byVDDK) start(ctx context.Context, p *Pinned, readonly bool) (_ *vddkDisk, err error) {
	digest, err := p.Client.serverDigest(ctx)
	if err != nil {
		return nil, err
	}
	k, err := startNbdkit(t.opts.Nbdkit, p.Scratch, t.secret(p), func(socket string) []string {
		return t.args(p, socket, digest, readonly)
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, vddkStart)
	defer cancel()
	// Several connections would be several handles of VDDK on one disk, which slow each other down.
	c, err := k.dial(ctx, &nbd.Options{Connections: 1, RequestBytes: 2 << 20, Timeout: 2 * time.Minute})
	if err == nil {
		// Nobody else is to connect; and what has no name is not left behind, however we end.
		err = os.RemoveAll(k.folder)
	}
	if err != nil {
		if c != nil {
			err = errors.Join(err, c.Close())
		}
		return nil, errors.Join(err, k.stop())
	}
	return &vddkDisk{Client: c, kit: k}, nil
}

func (t *byVDDK) secret(p *Pinned) string {
	_, password := t.credential(p)
	return password
}

// args are the process's arguments. The password comes by descriptor 3: arguments and environments can be read by others.
func (t *byVDDK) args(p *Pinned, socket, digest string, readonly bool) []string {
	user, _ := t.credential(p)
	args := []string{"--foreground", "--newstyle", "--unix", socket}
	if runtime.GOOS == "linux" {
		args = append(args, "--exit-with-parent")
	}
	if readonly {
		args = append(args, "--readonly")
	}
	args = append(args, "--filter=retry", "--filter=blocksize", "vddk",
		"libdir="+t.opts.Libdir, "server="+p.Client.address.Hostname(), "user="+user, "password=-3", "thumbprint="+digest,
		"vm=moref="+p.VM.Value, "transports="+t.opts.Transports, "maxdata=2M", "retries=3")
	if port := p.Client.address.Port(); port != "" {
		args = append(args, "port="+port)
	}
	if p.Snapshot.Value != "" {
		args = append(args, "snapshot="+p.Snapshot.Value)
	}
	return append(args, "file="+p.Disk.File)
}

// serverDigest is the server's certificate by SHA-1, as VDDK wants it, from a connection that is trusted by our own rules.
func (c *Client) serverDigest(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, getBase)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, c.Address()+"/", nil)
	if err != nil {
		return "", err
	}
	res, err := plain(c.HTTP()).Do(req)
	if err != nil {
		return "", fmt.Errorf("certificate of %s: %w", c.Address(), unwrapURL(err))
	}
	defer res.Body.Close()
	if res.TLS == nil || len(res.TLS.PeerCertificates) == 0 {
		return "", fmt.Errorf("%s shows no certificate", c.Address())
	}
	return strings.ToLower(colons(thumbprintOf(res.TLS.PeerCertificates[0], sha1.Size))), nil
}

// vddkDisk is a disk behind a process.
type vddkDisk struct {
	*nbd.Client
	kit  *nbdkit
	once sync.Once
	err  error
}

// ReadAt implements [pipe.Image]. What the process said last stands in the error, where it has ended.
func (d *vddkDisk) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := d.Client.ReadAt(ctx, p, off)
	return n, d.kit.explain(err)
}

// Close ends the process.
func (d *vddkDisk) Close() error {
	d.once.Do(func() { d.err = errors.Join(d.Client.Close(), d.kit.stop()) })
	return d.err
}

// vddkTarget is the same, written to.
type vddkTarget struct {
	*nbd.Target
	disk *vddkDisk
}

// Image implements [Readable].
func (t *vddkTarget) Image() pipe.Image { return stayingOpen{t.disk} }

func (t *vddkTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := t.Target.WriteAt(ctx, p, off)
	return n, t.disk.kit.explain(err)
}

func (t *vddkTarget) Commit(ctx context.Context) error {
	err := t.disk.kit.explain(t.Target.Commit(ctx))
	return errors.Join(err, t.disk.Close())
}

func (t *vddkTarget) Close() error { return errors.Join(t.Target.Close(), t.disk.Close()) }

// vddkEnv is what a process gets of our environment: where things are, and no secret.
func vddkEnv() []string {
	var out []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG"} {
		if v, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+v)
		}
	}
	return out
}
