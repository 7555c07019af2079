package logs

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Write makes a data folder that was restored from the image ready to start: it puts the logs into wal, the label and
// the recovery's settings into data, and takes away what belongs to the life that the image ended: postmaster.pid, all
// replication slots, signs of another recovery, archiving (PostgresOptions.Archive). The server may be started when Write returns nil, and needs wal until it
// has recovered; it is then on a new timeline. A second Write begins anew.
//
// data must hold the cluster that was backed up, and no server may run on it. wal is an absolute path to a folder of the
// same owner, with no other logs in it.
func (p *PostgresPlan) Write(ctx context.Context, data, wal string) error {
	if !filepath.IsAbs(wal) || strings.ContainsAny(wal, "\x00\n\r\\") {
		return fmt.Errorf("WAL folder %q: an absolute path without line breaks and backslashes is needed: %w", wal, fs.ErrInvalid)
	}
	root, err := os.OpenRoot(data)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := p.check(root); err != nil {
		return fmt.Errorf("%s: %w", data, err)
	}
	if err := Fill(ctx, p.store, p.Stream, append(slices.Clone(p.Histories), p.Logs...), wal); err != nil {
		return err
	}
	if err := purge(root); err != nil {
		return err
	}
	if err := p.configure(root, wal); err != nil {
		return err
	}
	// The sign of a recovery comes last: a folder that lacks it is not half prepared, it has a label and no more.
	if err := replace(root, "recovery.signal", nil); err != nil {
		return err
	}
	return syncDir(data)
}

// check makes sure that the folder holds the cluster of the records.
func (p *PostgresPlan) check(root *os.Root) error {
	version, err := read(root, "PG_VERSION", 64)
	if err != nil {
		return err
	}
	if want := strconv.Itoa(p.Backup.Version / 10000); strings.TrimSpace(string(version)) != want {
		return fmt.Errorf("a cluster of PostgreSQL %.16q, and the backup is of %s: %w", strings.TrimSpace(string(version)), want, fs.ErrInvalid)
	}
	f, err := root.Open("global/pg_control")
	if err != nil {
		return err
	}
	defer f.Close()
	var b [8]byte
	if _, err := io.ReadFull(f, b[:]); err != nil {
		return fmt.Errorf("pg_control: %w", err)
	}
	// The number stands first, in the order of bytes of the machine that wrote it.
	little, big := binary.LittleEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[:])
	if want := p.Backup.System; strconv.FormatUint(little, 10) != want && strconv.FormatUint(big, 10) != want {
		return fmt.Errorf("another cluster (%d) than the one that was backed up (%s): %w", little, want, fs.ErrInvalid)
	}
	return nil
}

// purge takes away what the image was in the middle of.
func purge(root *os.Root) error {
	for _, name := range []string{"recovery.signal", "postmaster.pid", "standby.signal", "backup_label", "tablespace_map"} {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	dir, err := root.Open("pg_replslot")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(4096)
	if err != nil && err != io.EOF {
		return err
	}
	for _, n := range names {
		// Each would keep WAL in the restored server for somebody who never comes: ours, and those of standbys and
		// subscribers, which follow the original and could not follow another timeline by them.
		if err := root.RemoveAll(filepath.Join("pg_replslot", n)); err != nil {
			return err
		}
	}
	return nil
}

// configure writes the label, the map of tablespaces and the settings.
func (p *PostgresPlan) configure(root *os.Root, wal string) error {
	if err := replace(root, "backup_label", p.label); err != nil {
		return err
	}
	if len(p.spaces) > 0 {
		if err := replace(root, "tablespace_map", p.moved()); err != nil {
			return err
		}
	}
	old, err := read(root, "postgresql.auto.conf", maxRecord)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return replace(root, "postgresql.auto.conf", []byte(without(string(old), p.settings(wal))))
}

// moved is the map of tablespaces with the folders where they lie now.
func (p *PostgresPlan) moved() []byte {
	var b strings.Builder
	lines := bufio.NewScanner(strings.NewReader(string(p.spaces)))
	lines.Buffer(nil, maxRecord)
	for lines.Scan() {
		oid, path, _ := strings.Cut(lines.Text(), " ")
		if to, ok := p.tablespaces[path]; ok {
			path = strings.NewReplacer("\\", "\\\\", "\n", "\\\n", "\r", "\\\r").Replace(to)
		}
		fmt.Fprintf(&b, "%s %s\n", oid, path)
	}
	return []byte(b.String())
}

// setting is a line of a configuration.
type setting struct{ name, value string }

// settings are all of a recovery's. An empty one is taken out and not written: two targets are one too many for the
// server, even if one of them is empty.
func (p *PostgresPlan) settings(wal string) []setting {
	command := "cp '" + strings.ReplaceAll(strings.ReplaceAll(wal, "'", `'"'"'`), "%", "%%") + "/%f' '%p'"
	action, target, moment := "promote", "", p.Target.UTC().Format("2006-01-02 15:04:05.000000+00")
	if p.Pause {
		action = "pause"
	}
	if p.Immediate {
		target, moment = "immediate", ""
	}
	all := []setting{
		{"restore_command", command}, {"recovery_target", target}, {"recovery_target_time", moment},
		{"recovery_target_lsn", ""}, {"recovery_target_name", ""}, {"recovery_target_xid", ""},
		{"recovery_target_inclusive", "on"}, {"recovery_target_timeline", "current"}, {"recovery_target_action", action},
	}
	if p.archive {
		return all // what stands there of it stays
	}
	return append(all, setting{"archive_mode", "off"})
}

// without puts settings behind what is there, in place of what is there of them.
func without(conf string, settings []setting) string {
	var b strings.Builder
	for line := range strings.Lines(conf) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "=")
		name = strings.TrimSpace(name)
		mine := false
		for _, s := range settings {
			mine = mine || strings.EqualFold(name, s.name)
		}
		if !mine {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	for _, s := range settings {
		if s.value == "" {
			continue
		}
		fmt.Fprintf(&b, "%s = '%s'\n", s.name, strings.ReplaceAll(s.value, "'", "''"))
	}
	return b.String()
}

// read reads a small file.
func read(root *os.Root, name string, max int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(b)) > max {
		err = fmt.Errorf("%s: more than %d bytes: %w", name, max, fs.ErrInvalid)
	}
	return b, err
}

// replace writes a file in one step, for the folder's owner.
func replace(root *os.Root, name string, content []byte) error {
	f, err := root.OpenFile(name+".hikae", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), adopt(root, f), f.Close())
	if err != nil {
		return errors.Join(err, root.Remove(name+".hikae"))
	}
	return root.Rename(name+".hikae", name)
}
