// Package natsserver runs a NATS server with JetStream in this process: the queue of one site, or one node of a cluster, without
// anything to install.
//
// Reach for it where a fleet begins; a cluster that is there already serves as well. It listens on this machine alone unless it is
// given certificates, and it never lets anybody in without credentials. Each write is synced before it is answered.
package natsserver

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/hikae/hikae/job/natsqueue"
)

// Options are how a server runs. Dir and Credentials must be there; other zero fields are good defaults.
type Options struct {
	Dir         string                 // what the queue keeps; made if it is not there
	Listen      string                 // HOST:PORT; empty: 127.0.0.1:4222; port 0 or -1: any
	Credentials *natsqueue.Credentials // of the one user: name and password, or a token
	NKeys       []string               // public keys (U…) of further users
	// TLS is for clients, and between nodes; needed where Listen is not this machine alone. RootCAs are whom a node believes that another
	// one is who it says, nil: the system's authorities. With ClientAuth and ClientCAs clients and other nodes show certificates, too.
	TLS      *tls.Config
	Plain    bool     // no TLS on other addresses, where the network itself is encrypted and keeps others out
	Cluster  *Cluster // nil: a server by itself
	MaxStore int64    // bytes on disk; zero: 10 GiB
}

// Cluster makes a server one node of several.
type Cluster struct {
	Name   string   // of the node, unique
	Listen string   // HOST:PORT for the other nodes
	Peers  []string // HOST:PORT of the nodes, its own may be among them
}

// Server is a server that runs.
type Server struct{ s *server.Server }

// Start starts a server and waits until it answers, or the context ends.
func Start(ctx context.Context, o Options) (*Server, error) {
	opts, err := o.build()
	if err != nil {
		return nil, fmt.Errorf("queue server: %w", err)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("queue server: %w", err)
	}
	s.Start()
	running := &Server{s}
	for !s.ReadyForConnections(50 * time.Millisecond) {
		if ctx.Err() != nil || !s.Running() {
			return nil, errors.Join(errors.New("queue server: it does not come up: is the port free?"), ctx.Err(), running.Close())
		}
	}
	if !s.JetStreamEnabled() {
		return nil, errors.Join(fmt.Errorf("queue server: JetStream cannot use %s", o.Dir), running.Close())
	}
	return running, nil
}

func (o *Options) build() (*server.Options, error) {
	host, port, err := split(cmp.Or(o.Listen, "127.0.0.1:4222"))
	if err != nil {
		return nil, err
	}
	local := host == "localhost" || net.ParseIP(host).IsLoopback()
	switch c := o.Credentials; {
	case o.Dir == "":
		return nil, errors.New("no folder for what the queue keeps")
	case !local && o.TLS == nil && !o.Plain:
		return nil, &natsqueue.InsecureError{Host: host}
	case (c == nil || c.Token == "" && (c.User == "" || c.Password == "")) && len(o.NKeys) == 0:
		return nil, natsqueue.ErrNoCredentials
	}
	out := &server.Options{Host: host, Port: port, JetStream: true, StoreDir: o.Dir, SyncAlways: true, NoSigs: true, NoLog: true,
		JetStreamMaxStore: cmp.Or(o.MaxStore, 10<<30), JetStreamMaxMemory: 64 << 20, MaxPayload: 1 << 20, AuthTimeout: 5}
	if o.TLS != nil {
		out.TLSConfig = o.TLS.Clone()
		out.TLSConfig.MinVersion = tls.VersionTLS13
		out.TLSTimeout = 5
	}
	if c := o.Credentials; c != nil && c.Token != "" {
		out.Authorization = c.Token
	} else if c != nil {
		out.Username, out.Password = c.User, c.Password
	}
	if err := o.nkeys(out); err != nil {
		return nil, err
	}
	return out, o.cluster(out)
}

// nkeys adds users by public key. The server takes either a single user or a list.
func (o *Options) nkeys(out *server.Options) error {
	if len(o.NKeys) == 0 {
		return nil
	}
	if out.Authorization != "" {
		return errors.New("a token and nkeys do not go together: use a user and a password")
	}
	if out.Username != "" {
		out.Users = []*server.User{{Username: out.Username, Password: out.Password}}
		out.Username, out.Password = "", ""
	}
	for _, key := range o.NKeys {
		out.Nkeys = append(out.Nkeys, &server.NkeyUser{Nkey: key})
	}
	return nil
}

func (o *Options) cluster(out *server.Options) error {
	c := o.Cluster
	if c == nil {
		return nil
	}
	host, port, err := split(c.Listen)
	if err != nil {
		return err
	}
	if c.Name == "" || o.Credentials == nil || o.Credentials.Password == "" {
		return errors.New("a node of a cluster needs a name, and a user and a password for the other nodes")
	}
	if !net.ParseIP(host).IsLoopback() && o.TLS == nil && !o.Plain {
		return &natsqueue.InsecureError{Host: host}
	}
	user, password := o.Credentials.User, o.Credentials.Password
	out.ServerName = c.Name
	out.Cluster = server.ClusterOpts{Name: "hikae", Host: host, Port: port, Username: user, Password: password, AuthTimeout: 5, NoAdvertise: true,
		ConnectRetries: 1 << 20}
	if o.TLS != nil {
		out.Cluster.TLSConfig, out.Cluster.TLSTimeout = out.TLSConfig.Clone(), 5
	}
	for _, peer := range c.Peers {
		if strings.TrimSpace(peer) != "" {
			out.Routes = append(out.Routes, &url.URL{Scheme: "nats", Host: peer, User: url.UserPassword(user, password)})
		}
	}
	return nil
}

func split(address string) (string, int, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.Atoi(text)
	if err != nil || port > 65535 {
		return "", 0, fmt.Errorf("port %q", text)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// URL is where clients connect.
func (s *Server) URL() string { return s.s.ClientURL() }

// Close stops the server. What it keeps stays in its folder.
func (s *Server) Close() error {
	s.s.Shutdown()
	s.s.WaitForShutdown()
	return nil
}
