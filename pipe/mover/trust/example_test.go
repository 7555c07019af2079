package trust_test

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hikae/hikae/pipe/mover/trust"
)

// A machine enrols with a token, and is a peer from then on.
func Example() {
	dir, err := os.MkdirTemp("", "trust")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	// On the server: its key, its book, and a token for one machine.
	server, err := trust.LoadIdentity(filepath.Join(dir, "server"))
	if err != nil {
		panic(err)
	}
	book, err := trust.OpenBook(filepath.Join(dir, "server"))
	if err != nil {
		panic(err)
	}
	token, err := book.AddToken(server.Pin(), "site-a", trust.Append, time.Hour)
	if err != nil {
		panic(err)
	}

	// On the client, to which token.String() was carried: its own key. It connects with the token's key, by
	// ClientTLS(once, token.Server), and hands over its own.
	once, err := token.Identity()
	if err != nil {
		panic(err)
	}
	client, err := trust.LoadIdentity(filepath.Join(dir, "client"))
	if err != nil {
		panic(err)
	}

	// On the server, for the call that came over that connection.
	peer, err := book.Enrol(once.Pin(), client.PublicKey(), "client.example")
	if err != nil {
		panic(err)
	}
	fmt.Println(peer.Name, peer.Role, peer.Pin == client.Pin())

	_, err = book.Enrol(once.Pin(), client.PublicKey(), "somebody.example")
	fmt.Println(err != nil)
	// Output:
	// site-a append true
	// true
}
