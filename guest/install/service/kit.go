package service

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/hikae/hikae/guest/install/pack"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// ErrKit says that a kit cannot be used.
var ErrKit = errors.New("the kit cannot be used")

// DefaultListen is where the service listens.
const DefaultListen = ":7421"

// Kit is what a guest is given when the installer service is set up there. It is a secret as long as its temporary key
// is good: whoever has it may pass for a guest that was not seen yet. It never lets anybody into a guest. It prints as
// the controllers' names.
type Kit struct {
	// Token is the temporary key: the text of a trust.Token whose server is the first controller.
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"` // of the temporary key
	// Controllers are let in: at least one of the role full.
	Controllers []Controller `json:"controllers"`
	// Signers are keys that packages may be signed by, as pack.KeyText writes them.
	Signers []string `json:"signers"`
	// Listen is host:port or :port. Empty: [DefaultListen].
	Listen string `json:"listen"`
}

// Controller is a machine that a guest lets in.
type Controller struct {
	Name string     `json:"name"`
	Role trust.Role `json:"role"` // full, or guest: a proxy, which may install and use components and nothing else
	Key  string     `json:"key"`  // Ed25519, 32 bytes in base64
}

const (
	maxKit         = 64 << 10 // bytes
	maxControllers = 64
	maxSigners     = 16
)

// String names the controllers and no secret.
func (k *Kit) String() string {
	names := make([]string, len(k.Controllers))
	for i, c := range k.Controllers {
		names[i] = c.Name
	}
	return fmt.Sprintf("kit of %q until %s", names, k.Expires.UTC().Format(time.RFC3339))
}

// Format prints as String does, whatever the verb.
func (k *Kit) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }

// LogValue is String.
func (k *Kit) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Encode is the kit as a file, with its secret.
func (k *Kit) Encode() ([]byte, error) {
	if err := k.Check(); err != nil {
		return nil, err
	}
	type plain Kit // without the methods that hide the secret
	b, err := json.MarshalIndent((*plain)(k), "", "\t")
	return append(b, '\n'), err
}

// ParseKit reads what Encode writes. The error is an [ErrKit], and quotes nothing of it.
func ParseKit(data []byte) (*Kit, error) {
	k := new(Kit)
	if err := strict(data, maxKit, k); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKit, err)
	}
	return k, k.Check()
}

// ReadKit reads a kit from a file.
func ReadKit(path string) (*Kit, error) {
	data, err := readBounded(path, maxKit)
	if err != nil {
		return nil, err
	}
	k, err := ParseKit(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// Check tells whether a kit can be one, whenever it ends.
func (k *Kit) Check() error {
	token, err := trust.ParseToken(k.Token)
	if err != nil {
		return fmt.Errorf("%w: its temporary key is not whole", ErrKit)
	}
	if err := checkListen(k.Listen); err != nil {
		return err
	}
	if k.Expires.IsZero() || len(k.Controllers) == 0 || len(k.Controllers) > maxControllers {
		return fmt.Errorf("%w: %d controllers, 1 to %d, or no end", ErrKit, len(k.Controllers), maxControllers)
	}
	if _, err := signerKeys(k.Signers); err != nil {
		return err
	}
	names := map[string]bool{}
	for i, c := range k.Controllers {
		key, err := c.key()
		if err != nil {
			return err
		}
		pin, err := trust.PinOf(key)
		if err == nil && i == 0 && (pin != token.Server || c.Role != trust.Full) {
			err = errors.New("the first controller is not the one that made it")
		}
		if err != nil || names[c.Name] {
			return fmt.Errorf("%w: controller %q: %w", ErrKit, c.Name, errors.Join(err, fs.ErrInvalid))
		}
		names[c.Name] = true
	}
	return nil
}

// key is a controller's, once all of it is as it should be.
func (c *Controller) key() (ed25519.PublicKey, error) {
	raw, err := base64.StdEncoding.DecodeString(c.Key)
	switch {
	case trust.CheckName(c.Name) != nil:
		return nil, fmt.Errorf("%w: %.80q is no name for a controller", ErrKit, c.Name)
	case c.Role != trust.Full && c.Role != trust.Guest:
		return nil, fmt.Errorf("%w: controller %q has the role %.40q: full or guest", ErrKit, c.Name, c.Role)
	case err != nil || len(raw) != ed25519.PublicKeySize:
		return nil, fmt.Errorf("%w: the key of controller %q is none", ErrKit, c.Name)
	}
	return raw, nil
}

func signerKeys(texts []string) (keys []ed25519.PublicKey, err error) {
	if len(texts) == 0 || len(texts) > maxSigners {
		return nil, fmt.Errorf("%w: %d signers, 1 to %d", ErrKit, len(texts), maxSigners)
	}
	for _, text := range texts {
		key, err := pack.ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("%w: a signer's key: %w", ErrKit, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func checkListen(listen string) error {
	if listen == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(listen)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n > 65535 {
		return fmt.Errorf("%w: %.80q is no place to listen at", ErrKit, listen)
	}
	return nil
}

// strict decodes one JSON value with exactly the fields of into. What it says of a mistake quotes nothing.
func strict(data []byte, max int, into any) error {
	if len(data) > max {
		return fmt.Errorf("%d bytes, at most %d", len(data), max)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		_, err = d.Token()
	}
	if err != io.EOF {
		return fmt.Errorf("around byte %d it is not what it should be", d.InputOffset())
	}
	return nil
}

// readBounded reads a regular file of at most max bytes.
func readBounded(path string, max int64) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > max {
		return nil, fmt.Errorf("%s is no regular file of at most %d bytes: %w", path, max, fs.ErrInvalid)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, max))
}
