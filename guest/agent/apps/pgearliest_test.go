//go:build linux

package apps

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/apps/appstest"
	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

// A restore to the earliest moment is by recovery_target=immediate, which ends at StopLSN: nothing behind that place was
// committed before StopTime.
func TestNothingOfEarliestIsMissing(t *testing.T) {
	dir := appstest.Dir(t)
	pg := appstest.NewPostgres(t, dir, "synchronous_commit=off")
	pg.SQL(t, "CREATE TABLE w (n bigserial, lsn pg_lsn, at timestamptz)")
	var cmds []*exec.Cmd
	for range 3 {
		c := pg.Session(t)
		c.Stdin = strings.NewReader(`DO $$ BEGIN FOR i IN 1..400000 LOOP INSERT INTO w(lsn, at) VALUES (pg_current_wal_insert_lsn(), NULL); UPDATE w SET at = clock_timestamp() WHERE n = currval('w_n_seq'); COMMIT; END LOOP; END $$;` + "\n")
		require.NoError(t, c.Start())
		cmds = append(cmds, c)
	}
	defer func() {
		for _, c := range cmds {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	}()
	time.Sleep(500 * time.Millisecond)
	a := New(below(dir))
	var lost []string
	for range 4 {
		p, _, err := a.Prepare(t.Context(), wire.PrepareArgs{Label: "x"})
		require.NoError(t, err)
		records, _ := p.Finish(t.Context())
		_ = p.Close()
		if len(records) < 2 {
			continue
		}
		var b record.PostgresBackup
		require.NoError(t, json.Unmarshal(records[1].Content, &b))
		time.Sleep(300 * time.Millisecond)
		require.Less(t, b.StopTime, b.EndTime)
		lost = append(lost, pg.SQL(t, "SELECT count(*) FROM w WHERE lsn >= '"+b.StopLSN+"' AND at < timestamptz '"+b.StopTime+"' - interval '200 microseconds'"))
	}
	pg.SQL(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DO %'")
	require.False(t, slices.ContainsFunc(lost, func(s string) bool { return s != "0" }), "in each backup: %v", lost)
	require.NotEmpty(t, lost)
}
