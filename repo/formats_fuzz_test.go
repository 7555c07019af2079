package repo

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
)

// What people type is taken only where it gives one key, and a sheet that is printed from that key gives it again.
func FuzzRecoverySheet(f *testing.F) {
	key := [32]byte{1, 2, 0xfe, 31: 9}
	sheet := RecoverySheet(key)
	f.Add([]byte(sheet))
	f.Add([]byte("Printed on a Monday\r\n" + strings.ReplaceAll(strings.ToUpper(sheet), "\n", "\r\n")))
	f.Add([]byte(sheet + sheet))
	f.Add([]byte(hex.EncodeToString(key[:])))
	f.Fuzz(func(t *testing.T, b []byte) {
		found, ok, err := parseSheet(b)
		if err != nil || !ok {
			return
		}
		again, ok, err := parseSheet([]byte(RecoverySheet(found)))
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, found, again)
		secret, err := ParseKeyFile(b)
		require.NoError(t, err)
		if len(b) != len(found) {
			require.Equal(t, keyFile(found), secret)
		}
	})
}

// A checkpoint that only its signature vouches for: none, whatever it says, stops a state from being made of it, and that state makes
// a document again.
func FuzzCheckpoint(f *testing.F) {
	d := &checkpointDocument{
		K: 2, N: 1, Hashes: []hash{{1}}, Keys: []checkpointKey{{publicKey{2}, roleAppend, []id16{{3}}}},
		Leases: []checkpointLease{{N: 3, Key: publicKey{2}, Access: accessRead, Points: []id16{{4}}}},
		Points: []checkpointPoint{{N: 9, Lease: 3, Point: id16{4}, VM: id16{5}, Object: hash{6}}},
		Held:   []checkpointNote{{ID: id16{4}, Note: "keep"}}, Tombs: []checkpointTomb{{Name: "data/0000000000000001/000102030405060708090a0b0c0d0e0f", N: 5, Mark: 4}},
		Bad: []checkpointBad{{hash{7}, 8}}, Slots: []checkpointNote{{ID: id16{9}}}, Alien: []string{"newer"}, Audit: []AuditEntry{},
	}
	seedJSON(f, d)
	f.Add([]byte(`{"k":2,"n":1,"hashes":[]}`))
	root := keyFromSeed(make([]byte, 32))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &ledger{}
		l.every, l.repo, l.root = 1, id16{1}, publicOf(root)
		d, err := l.openCheckpoint(sign(root, signCheckpoint, l.repo, b), 2)
		if err == nil {
			if s, err := d.state(); err == nil {
				l.logState = s
				require.LessOrEqual(t, len(l.document(d.Audit).Tombs), len(d.Tombs))
			}
		}
		if d, err := decodeCheckpoint(b); err == nil {
			same := new(checkpointDocument)
			require.NoError(t, decodeJSON(b, same), "what the streaming decoder takes the plain one takes, and reads the same")
			require.Equal(t, same, d)
		}
		roundTrip[checkpointDocument](t, b)
	})
}

// What a machine keeps of a verification and of the log it has seen is its own, and may be damaged all the same.
func FuzzKeptState(f *testing.F) {
	seedJSON(f, &stateDocument{Format: 1, Repo: id16{1}, Run: &runDocument{Percent: 5, Seed: 7, Done: []byte{1}}, Rotation: rotationState{Days: 30, Next: 4, Day: 20_000}})
	seedJSON(f, &mark{N: 7, Hash: hash{1}})
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		roundTrip[stateDocument](t, b)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "mark"), b, 0o600))
		c := &client{dir: dir}
		if m, err := c.readMark(); err == nil {
			require.NoError(t, c.writeMark(m))
			again, err := c.readMark()
			require.NoError(t, err)
			require.Equal(t, m, again)
		}
	})
}

// Names of slots and objects that a listing gives.
func FuzzObjectNames(f *testing.F) {
	f.Add("slot/000102030405060708090a0b0c0d0e0f")
	f.Add("manifest/0000000000000001/000102030405060708090a0b0c0d0e0f")
	f.Add("data/0000000000000001/000102030405060708090a0b0c0d0e0f")
	f.Fuzz(func(t *testing.T, name string) {
		if id, ok := slotID(name); ok {
			require.Equal(t, strings.ToLower(name), "slot/"+hex.EncodeToString(id[:]))
		}
		if o, ok := objectNamed(name); ok {
			again, ok := objectNamed(nameOf(o))
			require.True(t, ok)
			require.Equal(t, o, again)
		}
		_, _, _ = parseObject(name)
	})
}

// A whole file of the store, by whatever bytes: what is read as an object with its cells' sums right says where it ends.
func FuzzFile(f *testing.F) {
	w := cell.NewWriter(cell.Ident{Kind: kindData, Object: [16]byte{1}, Repo: [16]byte{2}}, 30, 9000)
	_, err := w.Write(make([]byte, 9000))
	require.NoError(f, err)
	file, err := w.Finish()
	require.NoError(f, err)
	f.Add(file)
	f.Add(file[:cell.Size])
	f.Fuzz(func(t *testing.T, b []byte) {
		fixed, _, err := cell.Repair(b)
		if err == nil {
			require.True(t, cell.Consistent(fixed))
		}
		read := func(off, n int) ([]byte, error) { return b[min(off, len(b)):min(off+n, len(b))], nil }
		_, err = object.ReadTable(read, int64(len(b)), cell.Ident{Kind: kindData, Object: [16]byte{1}}, []object.Unwrapper{object.Clear{}})
		require.Error(t, err, "it has no header")
	})
}
