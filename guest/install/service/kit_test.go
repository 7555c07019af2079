package service

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/trust"
)

func TestKit(t *testing.T) {
	id, c := controller(t, "backup-server", trust.Full)
	k, _ := newKit(t, id, time.Hour, c)
	text, err := k.Encode()
	require.NoError(t, err)
	back, err := ParseKit(text)
	require.NoError(t, err)
	again, err := back.Encode()
	require.NoError(t, err)
	require.Equal(t, text, again)

	// It is a secret: only Encode tells it.
	marshalled, err := json.Marshal(struct{ K fmt.Stringer }{k})
	require.NoError(t, err)
	for _, shown := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %q %x", k, k, k, k), k.String(), k.LogValue().String(), string(marshalled)[:0]} {
		require.NotContains(t, shown, k.Token)
		require.NotContains(t, shown, k.Token[len(k.Token)-20:])
	}
}

func TestKitIsStrict(t *testing.T) {
	id, c := controller(t, "backup-server", trust.Full)
	good, _ := newKit(t, id, time.Hour, c)
	_, stranger := controller(t, "stranger", trust.Full)
	for name, change := range map[string]func(k *Kit){
		"no token":             func(k *Kit) { k.Token = "" },
		"half a token":         func(k *Kit) { k.Token = k.Token[:30] },
		"no end":               func(k *Kit) { k.Expires = time.Time{} },
		"nobody is let in":     func(k *Kit) { k.Controllers = nil },
		"somebody else first":  func(k *Kit) { k.Controllers = []Controller{stranger} },
		"the same twice":       func(k *Kit) { k.Controllers = []Controller{c, c} },
		"a role that writes":   func(k *Kit) { k.Controllers[0].Role = trust.Append },
		"the first is a proxy": func(k *Kit) { k.Controllers[0].Role = trust.Guest },
		"a bad name":           func(k *Kit) { k.Controllers[0].Name = "../x" },
		"a bad key":            func(k *Kit) { k.Controllers[0].Key = "AAAA" },
		"no signer":            func(k *Kit) { k.Signers = nil },
		"a bad signer":         func(k *Kit) { k.Signers = []string{"rsa:x"} },
		"a bad port":           func(k *Kit) { k.Listen = "7421" },
	} {
		bad := *good
		bad.Controllers = append([]Controller{}, good.Controllers...)
		change(&bad)
		require.ErrorIs(t, bad.Check(), ErrKit, name)
		_, err := bad.Encode()
		require.ErrorIs(t, err, ErrKit, name)
	}
	text, err := good.Encode()
	require.NoError(t, err)
	for _, bad := range [][]byte{nil, text[:len(text)/2], append(bytes.Clone(text), '{'), bytes.Replace(text, []byte(`"signers"`), []byte(`"sygners"`), 1),
		[]byte(strings.Repeat(" ", maxKit+1))} {
		_, err := ParseKit(bad)
		require.ErrorIs(t, err, ErrKit)
		require.NotContains(t, err.Error(), good.Token[20:40])
	}
}

func FuzzParseKit(f *testing.F) {
	id, c := controller(f, "backup-server", trust.Full)
	k, _ := newKit(f, id, time.Hour, c)
	text, err := k.Encode()
	require.NoError(f, err)
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseKit(text)
		if err != nil {
			return
		}
		out, err := k.Encode()
		require.NoError(t, err)
		back, err := ParseKit(out)
		require.NoError(t, err)
		again, err := back.Encode()
		require.NoError(t, err)
		require.Equal(t, out, again)
	})
}
