// Reader restores disks from a repository on a directory, and shares no code with what wrote it.
//
// It was written from repo/FORMAT.md alone, so that the page can be trusted to say enough: whoever finds a repository
// in twenty years and no program for it can write this one again. It imports the standard library, the codecs, the
// hashes and the ciphers that the page names, and nothing else of this module.
//
//	reader list    REPO
//	reader restore REPO POINT DISK OUT    a raw, sparse file that does not exist yet
//	reader check   REPO                   every cell, frame, signature and tree
//	reader dump    REPO                   what the log says, and every object, for people
//
// # Secrets
//
// HIKAE_PASSWORD is the passphrase; HIKAE_PASSWORD_FILE, HIKAE_KEY_FILE and HIKAE_IDENTITY name files with a
// passphrase in the first line, a key (32 bytes, or 64 hexadecimal digits) and age identities.
//
// # Exit status
//
// 0 done, 1 failed, 2 usage, 3 done with warnings (damage that parity or a copy made good), 4 damage left.
//
// # What it does not do
//
// It writes nothing into the repository, takes no lease, and has no memory of earlier runs: that the repository is the
// newest there is stays unproven. Packs are read whole, and each table once at every start.
package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"filippo.io/age"
)

// Exit statuses.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitWarnings = 3
	exitDamage   = 4
)

const usage = `usage: reader list    REPO
       reader restore REPO POINT DISK OUT
       reader check   REPO
       reader dump    REPO
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	status := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is the program without its surroundings.
func run(ctx context.Context, args []string, env func(string) string, out, log io.Writer) int {
	arguments := map[string]int{"list": 2, "check": 2, "dump": 2, "restore": 5}
	if len(args) == 0 || arguments[args[0]] != len(args) {
		fmt.Fprint(log, usage)
		return exitUsage
	}
	keys, err := readKeys(env)
	if err != nil {
		fmt.Fprintln(log, "error:", err)
		return exitUsage
	}
	r, err := openRepository(args[1], keys)
	if err == nil {
		switch args[0] {
		case "list":
			err = r.printPoints(out)
		case "restore":
			err = r.restore(ctx, args[2], args[3], args[4])
		case "check":
			err = r.printCheck(ctx, out)
		case "dump":
			err = r.dump(out)
		}
	}
	return finish(r, err, log)
}

// finish prints what is left to say, and chooses the status.
func finish(r *repository, err error, log io.Writer) int {
	warned := false
	if r != nil {
		for _, n := range r.notes {
			warned = true
			fmt.Fprintln(log, "warning:", n)
		}
	}
	switch {
	case err == nil && warned, errors.Is(err, errMendable):
		return exitWarnings
	case err == nil:
		return exitDone
	}
	fmt.Fprintln(log, "error:", err)
	if errors.Is(err, errDamaged) {
		return exitDamage
	}
	return exitFailed
}

func (r *repository) printPoints(out io.Writer) error {
	var bad error
	for _, c := range r.log.points {
		m, err := r.manifest(c)
		if err != nil {
			bad = errors.Join(bad, err)
			continue
		}
		for _, d := range m.disks {
			fmt.Fprintf(out, "%s\t%q\t%s\t%s\t%q\t%d\n", m.id, m.vm, m.time.Format(time.RFC3339), m.state, d.key, d.size)
		}
	}
	return errors.Join(bad, r.log.broken)
}

var errMendable = errors.New("all damage that was found can be made good")

func (r *repository) printCheck(ctx context.Context, out io.Writer) error {
	rep, err := r.check(ctx)
	fmt.Fprintf(out, "%d objects, %d frames, %d points\n", rep.objects, rep.frames, rep.points)
	for _, m := range rep.mended {
		fmt.Fprintln(out, "can be mended:", m)
	}
	if err = errors.Join(append(rep.faults, err)...); err == nil && len(rep.mended) > 0 {
		err = errMendable
	}
	return err
}

// readKeys takes the secrets that the environment names.
func readKeys(env func(string) string) (*keyring, error) {
	k := &keyring{}
	if p := env("HIKAE_PASSWORD"); p != "" {
		k.passphrase = []byte(p)
	}
	if name := env("HIKAE_PASSWORD_FILE"); name != "" {
		p, err := readSecret(name)
		if err != nil {
			return nil, err
		}
		p, _, _ = bytes.Cut(p, []byte("\n"))
		k.passphrase = bytes.TrimSuffix(p, []byte("\r"))
	}
	if name := env("HIKAE_KEY_FILE"); name != "" {
		p, err := readSecret(name)
		if err != nil {
			return nil, err
		}
		if text, err := hex.DecodeString(strings.TrimSpace(string(p))); err == nil {
			p = text
		}
		if k.key = p; len(p) != 32 {
			return nil, fmt.Errorf("%s: a key has 32 bytes, or 64 hexadecimal digits", name)
		}
	}
	if name := env("HIKAE_IDENTITY"); name != "" {
		p, err := readSecret(name)
		if err != nil {
			return nil, err
		}
		if k.identities, err = age.ParseIdentities(bytes.NewReader(p)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return k, nil
}

// readSecret reads a small file.
func readSecret(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}
