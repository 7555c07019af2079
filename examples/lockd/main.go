//go:build linux

// Lockd is the helper of a hardened directory repository: it keeps objects immutable until their date, so that the user
// that backs up cannot take them away. It runs as root, beside the repository:
//
//	lockd -repo /backup/hikae -user backup
//
// docs/immutability.md has what it protects against, and what it does not.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"github.com/hikae/hikae/repo/store/dirstore/lockd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lockd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	repo := flag.String("repo", "", "the repository's `FOLDER`")
	book := flag.String("book", "/var/lib/hikae-lockd", "`FOLDER` of the dates, the helper's own")
	name := flag.String("user", "", "`USER` that backs up, by name or number")
	days := flag.Int("max-days", 400, "longest lock, in `DAYS`")
	vouch := flag.Bool("clock-is-right", false, "believe the wall clock, once, after it was set")
	flag.Parse()
	if *repo == "" || *name == "" || flag.NArg() > 0 || *days < 1 || *days > 36500 {
		flag.Usage()
		os.Exit(2)
	}
	uid, gid, err := ids(*name)
	if err != nil {
		return err
	}
	k, err := lockd.Open(ctx, *repo, *book, uid, gid, &lockd.Options{
		MaxFor: time.Duration(*days) * 24 * time.Hour, ClockVouched: *vouch,
		Log: func(s string) { fmt.Fprintln(os.Stderr, "lockd:", s) },
	})
	if err != nil {
		return err
	}
	defer k.Close()
	return k.Serve(ctx, func() { fmt.Printf("{\"listening\": %s}\n", strconv.Quote(*repo+"/.lockd")) })
}

func ids(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return 0, 0, err
		}
	}
	if uid, err = strconv.Atoi(u.Uid); err == nil {
		gid, err = strconv.Atoi(u.Gid)
	}
	return uid, gid, err
}
