// Package bootcheck starts a restore point's machine from where the point lies, cut off from every network, waits for a sign of life, asks a
// program of the user, and throws it away. What it finds is a record like a session's.
//
//	start     from the repository, over an overlay: the point is only read
//	wait      for the agent, ports, a text at the serial port, the screen: all that is asked for, each as soon as it is there
//	probe     a program on this machine, or in the guest
//	look      the screen and the last of the serial port, for a person
//	end       always: also after a failure, a panic or a cancelled context, with time of its own
//
// A machine that passes did start; what it holds is not proven by that. A probe is what asks a database.
package bootcheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

const endWithin = time.Minute // for taking a machine down, whatever became of the context

// Run checks a point. The result holds what is known also where there is an error; a machine that did not pass is [ErrFailed].
func Run(ctx context.Context, starter Starter, backend pipe.Backend, point pipe.PointInfo, opts *Options) (job.BootResult, error) {
	o, err := opts.orDefault()
	if err != nil {
		return job.BootResult{}, err
	}
	c := &check{opts: o, point: point, begun: time.Now()}
	c.res = job.BootResult{Session: o.Sessions.NewID(), Point: point.ID, VM: point.VM, Started: c.begun, Checks: []job.BootCheck{}, Mapping: []string{}, Warnings: []string{}}
	err = c.run(ctx, starter, backend)
	c.res.Passed = err == nil
	c.res.Seconds = c.since()
	record := job.Record{Kind: job.KindBootCheck, Boot: &c.res}
	if err != nil {
		record.Error = err.Error()
	}
	if saveErr := o.Sessions.Save(record); saveErr != nil {
		c.warn("the record of this session was not kept: %v", saveErr)
	}
	done := c.res
	record.Boot = &done
	o.Events(job.SessionEnded{Record: record})
	return c.res, err
}

// check is one under way.
type check struct {
	opts  Options
	point pipe.PointInfo
	begun time.Time
	m     Machine

	mu  sync.Mutex
	res job.BootResult
}

func (c *check) since() float64 { return math.Round(time.Since(c.begun).Seconds()*1e3) / 1e3 }

func (c *check) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.mu.Lock()
	c.res.Warnings = append(c.res.Warnings, text)
	c.mu.Unlock()
	c.opts.Events(job.Warned{Text: text})
}

// seen notes what became of one thing that was waited for.
func (c *check) seen(name, detail string, err error) error {
	b := job.BootCheck{Name: name, Passed: err == nil, Detail: detail, Seconds: c.since()}
	if err != nil {
		b.Detail = strings.TrimSpace(detail + "\n" + err.Error())
		err = fmt.Errorf("%w: %s: %w", ErrFailed, name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.res.Checks = append(c.res.Checks, b)
	return err
}

func (c *check) run(ctx context.Context, starter Starter, backend pipe.Backend) (err error) {
	c.opts.Events(job.PhaseStarted{Session: c.res.Session, VM: c.res.VM, Phase: job.PhasePlan})
	c.m, err = starter.Start(ctx, backend, c.point, &StartOptions{Ports: c.opts.Ports, Journal: c.opts.Journal})
	if err != nil {
		return c.seen("started", "", err)
	}
	defer func() { err = errors.Join(err, c.end(ctx)) }()
	c.res.Mapping = append(c.res.Mapping, c.m.Mapping()...)
	c.begun = time.Now()
	if err := c.seen("started", "", nil); err != nil {
		return err
	}
	c.opts.Events(job.PhaseStarted{Session: c.res.Session, VM: c.res.VM, Phase: PhaseWait})
	if err := c.wait(ctx); err != nil {
		return err
	}
	c.opts.Events(job.PhaseStarted{Session: c.res.Session, VM: c.res.VM, Phase: PhaseProbe})
	return c.probe(ctx)
}

// Phases of a boot check, beside job.PhasePlan and job.PhaseRelease.
const (
	PhaseWait  job.Phase = "wait"
	PhaseProbe job.Phase = "probe"
)

// wait waits for everything that is asked for at once. What is not there in time fails, with its name; a machine that ends fails at once.
func (c *check) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.opts.Within, fmt.Errorf("not within %v", c.opts.Within))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var watch sync.WaitGroup
	defer watch.Wait()
	done := make(chan struct{})
	defer close(done)
	watch.Go(func() {
		select {
		case <-c.m.Ended():
			stop(fmt.Errorf("the machine ended: %s", c.m.Why()))
		case <-done:
		}
	})
	var waits sync.WaitGroup
	errs := make([]error, 0, len(c.opts.Ports)+3)
	var mu sync.Mutex
	one := func(name string, look func(context.Context) (detail string, ok bool, err error)) {
		waits.Go(func() {
			detail, err := until(ctx, look)
			err = c.seen(name, detail, err)
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		})
	}
	if c.opts.Agent || len(c.opts.InGuest) > 0 {
		one("agent", c.agent)
	}
	for _, port := range c.opts.Ports {
		one(fmt.Sprintf("port %d", port), func(ctx context.Context) (string, bool, error) { return c.port(ctx, port) })
	}
	if c.opts.Serial != nil {
		one("serial", c.serial)
	}
	if c.opts.Screen {
		one("screen", (&still{c: c}).look)
	}
	waits.Wait()
	return errors.Join(errs...)
}

const again = 250 * time.Millisecond

// until looks until what is looked for is there. An error of a look is what is told if it never is.
func until(ctx context.Context, look func(context.Context) (detail string, ok bool, err error)) (string, error) {
	var last error
	for {
		detail, ok, err := look(ctx)
		if ok {
			return detail, nil
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if last != nil {
				return detail, fmt.Errorf("%w; last: %w", context.Cause(ctx), last)
			}
			return detail, context.Cause(ctx)
		case <-time.After(again):
		}
	}
}

func (c *check) agent(ctx context.Context) (string, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := c.m.Ping(ctx)
	return "", err == nil, err
}

// port asks whether somebody listens. A forwarder may take a connection and drop it when nobody does: so a connection has to last, or
// to bring something.
func (c *check) port(ctx context.Context, port int) (string, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := c.m.Dial(ctx, port)
	if err != nil {
		return "", false, err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return "", false, err
	}
	var said [256]byte
	n, err := conn.Read(said[:])
	switch {
	case n > 0:
		return fmt.Sprintf("it says %.100q", said[:n]), true, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", true, nil // it waits for us to speak
	}
	return "", false, fmt.Errorf("the connection was closed: %w", err)
}

func (c *check) serial(ctx context.Context) (string, bool, error) {
	text, err := c.m.Serial(ctx)
	if err != nil {
		return "", false, err
	}
	found := c.opts.Serial.FindString(text)
	if !c.opts.Serial.MatchString(text) {
		return "", false, nil
	}
	return fmt.Sprintf("%.200q", found), true, nil
}

// still looks for a screen that shows something and has come to rest.
type still struct {
	c     *check
	last  []byte
	since time.Time
}

func (s *still) look(ctx context.Context) (string, bool, error) {
	img, err := s.c.m.Screen(ctx)
	if err != nil {
		return "", false, err
	}
	now := summary(img)
	if differ(now, s.last) > blinking {
		s.last, s.since = now, time.Now()
		return "", false, errors.New("it still changes")
	}
	if blank(img) {
		return "", false, errors.New("it shows nothing")
	}
	if time.Since(s.since) < s.c.opts.Linger {
		return "", false, nil
	}
	b := img.Bounds()
	return fmt.Sprintf("%d×%d, at rest", b.Dx(), b.Dy()), true, nil
}

// blinking is how many parts of a screen may change while it is at rest: a cursor lies on two at most.
const blinking = 2

func differ(a, b []byte) (n int) {
	if len(a) != len(b) {
		return len(a) + len(b)
	}
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

// summary is a screen in 32 by 32 shades.
func summary(img image.Image) []byte {
	const n = 32
	b := img.Bounds()
	var sums, counts [n * n]uint64
	for y := b.Min.Y; y < b.Max.Y; y += 2 {
		for x := b.Min.X; x < b.Max.X; x += 2 {
			at := (y-b.Min.Y)*n/b.Dy()*n + (x-b.Min.X)*n/b.Dx()
			r, g, bl, _ := img.At(x, y).RGBA()
			sums[at] += uint64(r+g+bl) >> 8
			counts[at]++
		}
	}
	out := make([]byte, n*n)
	for i := range out {
		if counts[i] > 0 {
			out[i] = byte(sums[i] / counts[i] / 3 >> 4) // of 16 shades
		}
	}
	return out
}

// blank reports whether a screen has one colour only.
func blank(img image.Image) bool {
	b := img.Bounds()
	if b.Empty() {
		return true
	}
	first := img.At(b.Min.X, b.Min.Y)
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			if img.At(x, y) != first {
				return false
			}
		}
	}
	return true
}

func (c *check) probe(ctx context.Context) error {
	if len(c.opts.InGuest) > 0 {
		if err := c.asked(ctx, "in guest", c.inGuest); err != nil {
			return err
		}
	}
	if len(c.opts.Probe) > 0 {
		return c.asked(ctx, "probe", c.outside)
	}
	return nil
}

func (c *check) asked(ctx context.Context, name string, do func(context.Context) (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.ProbeWithin)
	defer cancel()
	detail, err := do(ctx)
	return c.seen(name, detail, err)
}

func (c *check) inGuest(ctx context.Context) (string, error) {
	res, err := c.m.Run(ctx, c.opts.InGuest[0], c.opts.InGuest[1:])
	if err != nil {
		return "", err
	}
	said := clip(string(res.Stdout) + string(res.Stderr))
	if res.ExitCode != 0 {
		return said, fmt.Errorf("it ended with %d", res.ExitCode)
	}
	return said, nil
}

// outside runs the user's program here. It gets no shell, and nothing of ours but what is documented.
func (c *check) outside(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, c.opts.Probe[0], c.opts.Probe[1:]...)
	cmd.Env = slices.DeleteFunc(os.Environ(), secret)
	cmd.Env = append(cmd.Env, "HIKAE_VM="+c.point.VM, "HIKAE_POINT="+c.point.ID)
	for _, p := range c.opts.Ports {
		cmd.Env = append(cmd.Env, fmt.Sprintf("HIKAE_PORT_%d=%s", p, c.m.Address(p)))
	}
	cmd.WaitDelay = 5 * time.Second
	out := &last{max: maxOutput}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("not within %v", c.opts.ProbeWithin)
	}
	return clip(string(out.b)), err
}

// secret reports whether a variable is ours alone: passwords of repositories and stores among them.
func secret(variable string) bool {
	return strings.HasPrefix(variable, "HIKAE_") || strings.HasPrefix(variable, "AWS_")
}

// last keeps the last of what is written.
type last struct {
	b   []byte
	max int
}

func (l *last) Write(p []byte) (int, error) {
	l.b = append(l.b, p...)
	if len(l.b) > l.max {
		l.b = append(l.b[:0], l.b[len(l.b)-l.max:]...)
	}
	return len(p), nil
}

func clip(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "�")
	if len(s) > maxOutput {
		s = strings.ToValidUTF8(s[len(s)-maxOutput:], "")
	}
	return s
}

// end looks once more for a person, and takes the machine down.
func (c *check) end(ctx context.Context) error {
	c.opts.Events(job.PhaseStarted{Session: c.res.Session, VM: c.res.VM, Phase: job.PhaseRelease})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
	defer cancel()
	c.picture(ctx)
	c.res.Written = c.m.Written()
	err := c.m.Close(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("take the machine down: %w", err), c.m.Close(ctx))
	}
	return err
}

const shown = 4 << 10 // bytes of the serial port that are kept

func (c *check) picture(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endWithin/3)
	defer cancel()
	if text, err := c.m.Serial(ctx); err == nil {
		c.res.Serial = strings.ToValidUTF8(text[max(0, len(text)-shown):], "")
	}
	img, err := c.m.Screen(ctx)
	if err != nil {
		return
	}
	var b bytes.Buffer
	if png.Encode(&b, img) == nil && b.Len() < 4<<20 {
		c.res.Screen = b.Bytes()
	}
}
