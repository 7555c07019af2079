//go:build linux

package apps

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

// isBinlog reports whether a file is called as the binary logs of that base are.
func isBinlog(name, base string) bool {
	its, _, ok := record.BinlogNumber(name)
	return ok && its == filepath.Base(base)
}

// logs lists a server's binary logs but the current one, which is closed first. Nothing keeps them for us: the server's
// rules do, and a gap shows in the numbers.
func (s *mysql) logs(ctx context.Context, args wire.LogsArgs) (*listing, error) {
	if args.End {
		return &listing{}, nil
	}
	c, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	f, err := c.facts(ctx)
	if err != nil {
		return nil, err
	}
	if f.Binlog == "" {
		return nil, &wire.Failure{Code: wire.CodeState, Message: "log_bin is off"}
	}
	if err := c.wait(ctx, 20*time.Second); err != nil {
		return nil, err
	}
	closed := time.Now()
	if err := c.exec(ctx, "FLUSH BINARY LOGS"); err != nil {
		return nil, err
	}
	rows, err := c.rows(ctx, 2, "SHOW BINARY LOGS")
	if err != nil {
		return nil, err
	}
	l := &listing{folder: filepath.Dir(f.Binlog), uid: s.p.uid, check: isBinary}
	l.answer.Timeline = filepath.Base(f.Binlog)
	return l, l.binlogs(rows[:max(len(rows)-1, 0)], f.Binlog, closed)
}

// binlogs describes complete binary logs.
func (l *listing) binlogs(rows [][]string, base string, closed time.Time) error {
	root, err := os.OpenRoot(l.folder)
	if err != nil {
		return err
	}
	defer root.Close()
	// The newest: the server keeps them by its own rules, shipped or not, so that the oldest ones would come for ever. Where
	// others before them are not stored yet, the numbers show the hole.
	for _, row := range rows[max(len(rows)-maxLogs, 0):] {
		size, err := strconv.ParseInt(row[1], 10, 64)
		if !isBinlog(row[0], base) || err != nil {
			return &wire.Failure{Code: wire.CodeFailed, Message: "a binary log called " + clean(row[0], 200)}
		}
		info, err := root.Lstat(row[0])
		if errors.Is(err, fs.ErrNotExist) { // expired just now
			continue
		}
		if err != nil {
			return err
		}
		if !l.plain(info) || info.Size() != size {
			return &wire.Failure{Code: wire.CodeFailed, Message: row[0] + " is not the server's"}
		}
		at := info.ModTime()
		if at.After(closed) {
			at = closed
		}
		// A reader of binary logs stops at a time by itself: nothing later is needed behind it.
		l.answer.Logs = append(l.answer.Logs, wire.Log{Name: row[0], Size: size, Time: stamp(at), Mark: true})
	}
	return nil
}

// isBinary looks at a binary log's first four bytes.
func isBinary(_ string, head []byte) error {
	plain, encrypted := "\xfebin", "\xfdbin"
	if len(head) < 4 || string(head[:4]) != plain && string(head[:4]) != encrypted {
		return errStale
	}
	return nil
}

// shipped leaves the logs to the server.
func (s *mysql) shipped(context.Context, *listing, []string) error { return nil }
