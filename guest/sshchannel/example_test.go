package sshchannel_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/sshchannel"
)

// A component is brought into a guest, asked what is there, and taken away again.
func Example() {
	ctx := context.Background()
	key, err := os.ReadFile("/etc/backup/id_ed25519")
	if err != nil {
		log.Fatal(err)
	}
	way := sshchannel.New("web1.example.org", guest.Credential{User: "root", PrivateKey: key},
		&sshchannel.Options{KnownHosts: []string{"/etc/ssh/ssh_known_hosts"}})
	if f := way.Probe(ctx); !f.Open {
		log.Fatalf("%s: %s; %s", f.Step, f.Problem, f.Hint)
	}
	channel, err := way.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	component, err := guest.Deploy(ctx, channel, guest.ProgramsIn(os.DirFS("bin/agents")), &guest.DeployOptions{Guest: "web1", Way: way})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(component.Component.Hello().Host)
	if err := component.Remove(ctx); err != nil { // proven, or ErrLeftover
		log.Fatal(err)
	}
}
