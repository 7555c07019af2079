//go:build linux

package apps

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

// myHeld is a server that is ready: it changes no table's shape, and soon commits nothing.
type myHeld struct {
	s    *mySession
	kind string
	name string
	f    myFacts
	at   record.BinlogPosition
}

// idleSeconds is for how long a session may hold still. Servers are told, since many end silent ones after a minute.
const idleSeconds = 3600

func (s *mysql) prepare(ctx context.Context, _ string) (held, error) {
	c, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	h := &myHeld{s: c, kind: s.kind, name: s.name}
	if err := h.begin(ctx); err != nil {
		c.close()
		return nil, err
	}
	return h, nil
}

func (h *myHeld) begin(ctx context.Context) (err error) {
	if h.f, err = h.s.facts(ctx); err != nil {
		return err
	}
	h.at = record.BinlogPosition{Version: h.f.Version, Server: h.f.Server, Data: h.f.Data}
	if err := h.s.exec(ctx, fmt.Sprintf("SET SESSION wait_timeout = %d", idleSeconds)); err != nil {
		return err
	}
	if err := h.s.wait(ctx, time.Minute); err != nil {
		return err
	}
	steps := []string{"BACKUP STAGE START", "BACKUP STAGE FLUSH", "BACKUP STAGE BLOCK_DDL"}
	switch {
	case h.f.stages():
	case !h.f.MariaDB && h.f.Number >= 80000:
		steps = []string{"LOCK INSTANCE FOR BACKUP"}
	default:
		steps = nil // older ones have the global read lock alone
	}
	for _, sql := range steps {
		if err := h.s.exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// hold stops commits, and notes where the binary log is.
func (h *myHeld) hold(ctx context.Context) error {
	if err := h.s.wait(ctx, time.Minute); err != nil {
		return fmt.Errorf("the session that holds the backup was lost: %w", err)
	}
	sql := "FLUSH TABLES WITH READ LOCK"
	if h.f.stages() {
		sql = "BACKUP STAGE BLOCK_COMMIT"
	}
	if err := h.s.exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	h.at.Time = stamp(time.Now())
	if h.f.Binlog == "" {
		return nil
	}
	at, err := h.s.row(ctx, 2, h.f.position())
	if err != nil {
		return err
	}
	h.at.File = at[0]
	if h.at.Offset, err = strconv.ParseInt(at[1], 10, 64); err != nil || h.at.Offset < 0 || !isBinlog(h.at.File, h.f.Binlog) {
		return fmt.Errorf("a binary log %q at %q", clean(at[0], 200), clean(at[1], 32))
	}
	gtid := "@@global.gtid_executed"
	if h.f.MariaDB {
		gtid = "@@global.gtid_binlog_pos"
	}
	set, err := h.s.row(ctx, 1, "SELECT REPLACE("+gtid+", '\\n', '')")
	if err != nil {
		return err
	}
	h.at.GTID = clean(set[0], 64<<10)
	return nil
}

// resume lets commits go on. Where the session was lost meanwhile they went on before.
func (h *myHeld) resume(ctx context.Context) error {
	steps := []string{"BACKUP STAGE END"}
	if !h.f.stages() {
		steps = []string{"UNLOCK TABLES"}
		if !h.f.MariaDB && h.f.Number >= 80000 {
			steps = append(steps, "UNLOCK INSTANCE")
		}
	}
	for _, sql := range steps {
		if err := h.s.exec(ctx, sql); err != nil {
			return fmt.Errorf("the session that held commits was lost: %w", err)
		}
	}
	return nil
}

func (h *myHeld) finish(context.Context) ([]wire.Record, error) {
	b, err := json.MarshalIndent(h.at, "", "\t")
	return []wire.Record{{Kind: h.kind, Name: h.name, File: "binlog.json", Content: b}}, err
}

func (h *myHeld) close() { h.s.close() }
