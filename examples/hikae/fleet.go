package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/service"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/fleet"
	"github.com/hikae/hikae/job/natsqueue"
	"github.com/hikae/hikae/job/natsqueue/natsserver"
	"github.com/hikae/hikae/job/queue"
)

func (t *tool) fleetCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "fleet", Short: "Run a job's backups on many machines, through a queue", Args: want()}
	cmd.RunE = func(*cobra.Command, []string) error {
		return errors.New("what to do is missing: serve, run, status or cancel")
	}
	cmd.AddCommand(t.fleetServeCommand(), t.fleetRunCommand(), t.fleetStatusCommand(), t.fleetCancelCommand())
	return cmd
}

// queueFlags are where the queue is, and how to log on there.
type queueFlags struct {
	url, credentials, ca string
	cert, key            string
	replicas             int
	lease                time.Duration
}

func (f *queueFlags) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.url, "queue", "", "`URL`s of the queue's servers, with commas: nats://127.0.0.1:4222, tls://HOST:PORT")
	flags.StringVar(&f.credentials, "credentials-file", "", "`FILE` with user= and password=, token=, the seed of an nkey, or credentials of NATS")
	flags.StringVar(&f.ca, "ca", "", "`FILE` with the certificate authorities of the servers, as PEM; default: the system's")
	flags.StringVar(&f.cert, "tls-cert", "", "`FILE` with a certificate of this machine, as PEM, where the servers ask for one")
	flags.StringVar(&f.key, "tls-key", "", "`FILE` with its key")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	flags.IntVar(&f.replicas, "replicas", 1, "on how many servers a new queue is kept; 3 on a cluster")
	flags.DurationVar(&f.lease, "lease", time.Minute, "of a new queue: how long a worker may be silent before another one takes its tasks")
}

// required are the same where there is nothing to do without a queue.
func (f *queueFlags) required(cmd *cobra.Command) {
	f.flags(cmd)
	for _, name := range []string{"queue", "credentials-file"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined just above
		}
	}
}

func (f *queueFlags) open(ctx context.Context, t *tool) (*natsqueue.Queue, error) {
	if f.replicas < 1 || f.replicas > 5 || f.lease < time.Second || f.lease > time.Hour {
		return nil, outcome.Usage("", "--replicas is from 1 to 5, --lease from 1s to 1h")
	}
	login, err := natsqueue.ReadCredentials(f.credentials)
	if err != nil {
		return nil, &outcome.Error{Kind: outcome.KindSecret, Object: f.credentials, Text: "--credentials-file", Err: err}
	}
	opts := &natsqueue.Options{Credentials: login, Replicas: f.replicas, Lease: f.lease,
		Warn: func(s string) { t.tell("%s", s) }}
	if opts.TLS, err = (&queueTLS{ca: f.ca, cert: f.cert, key: f.key}).config(); err != nil {
		return nil, err
	}
	q, err := natsqueue.Open(ctx, f.url, opts)
	insecure, _ := errors.AsType[*natsqueue.InsecureError](err)
	switch {
	case insecure != nil:
		return nil, outcome.Usage("Servers on other machines are tls://HOST:PORT.", "%v", insecure)
	case err != nil:
		return nil, &outcome.Error{Object: f.url, Text: "queue", Err: err}
	}
	return q, nil
}

// queueTLS are the files of a TLS configuration.
type queueTLS struct{ ca, clientCA, cert, key string }

// config is nil where no file is named.
func (f *queueTLS) config() (_ *tls.Config, err error) {
	if *f == (queueTLS{}) {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS13}
	if c.RootCAs, err = authorities("--ca", f.ca); err != nil {
		return nil, err
	}
	if c.ClientCAs, err = authorities("--client-ca", f.clientCA); err != nil {
		return nil, err
	}
	if c.ClientCAs != nil {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, &outcome.Error{Object: f.cert, Text: "--tls-cert", Err: err}
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// authorities are the certificates in a file; nil: none is named.
func authorities(flag, file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := readSmall(file, 1<<20)
	if err != nil {
		return nil, &outcome.Error{Object: file, Text: flag, Err: err}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, outcome.Usage("", "%s %s has no certificate", flag, file)
	}
	return pool, nil
}

// fleetServeFlags are a server of the queue.
type fleetServeFlags struct {
	dir, listen, credentials string
	queueTLS
	nkeys         []string
	name, cluster string
	peers         []string
}

func (t *tool) fleetServeCommand() *cobra.Command {
	f := &fleetServeFlags{}
	cmd := &cobra.Command{
		Use:   "serve --dir DIR --credentials-file FILE [--listen HOST:PORT]",
		Short: "Serve the queue of a fleet, without anything else to install",
		Long: text(`
A NATS server with JetStream: by itself, or with --cluster as one node of three. It listens on this machine alone unless it has a
certificate, and nobody gets in without credentials. The command stays in the foreground, prints one JSON line with its address when it
is ready, and ends with SIGTERM. A cluster that is there already serves as well: see docs/fleet.md.`),
		Example: example(`
hikae fleet serve --dir /var/lib/hikae-queue --credentials-file /etc/hikae/queue
hikae fleet serve --dir /var/lib/hikae-queue --credentials-file /etc/hikae/queue --listen :4222 --tls-cert node1.pem --tls-key node1.key --ca ca.pem --cluster :6222 --name node1 --peer node2:6222 --peer node3:6222`),
		Args: want(),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.dir, "dir", "", "`DIR` for what the queue keeps (required)")
	flags.StringVar(&f.listen, "listen", "127.0.0.1:4222", "`HOST:PORT` for workers, with port 0 for a free one")
	flags.StringVar(&f.credentials, "credentials-file", "", "`FILE` with user= and password=, or token= (required)")
	flags.StringArrayVar(&f.nkeys, "nkey", nil, "public `KEY` (U…) of a further user; may repeat")
	flags.StringVar(&f.cert, "tls-cert", "", "`FILE` with the certificate, as PEM")
	flags.StringVar(&f.key, "tls-key", "", "`FILE` with its key")
	flags.StringVar(&f.ca, "ca", "", "`FILE` with the certificate authorities of the cluster's other nodes, as PEM; default: the system's")
	flags.StringVar(&f.clientCA, "client-ca", "", "`FILE` with certificate authorities: who connects, also another node, must show a certificate of theirs")
	flags.StringVar(&f.cluster, "cluster", "", "`HOST:PORT` for the other nodes of a cluster")
	flags.StringVar(&f.name, "name", "", "`NAME` of this node in its cluster")
	flags.StringArrayVar(&f.peers, "peer", nil, "`HOST:PORT` of another node; may repeat")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	cmd.MarkFlagsRequiredTogether("cluster", "name", "peer")
	for _, name := range []string{"dir", "credentials-file"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined just above
		}
	}
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		return nil, service.Run(ctx, "hikae-fleet", func(ctx context.Context) error { return t.fleetServe(ctx, f) })
	})
	return cmd
}

func (t *tool) fleetServe(ctx context.Context, f *fleetServeFlags) (err error) {
	login, err := natsqueue.ReadCredentials(f.credentials)
	if err != nil {
		return &outcome.Error{Kind: outcome.KindSecret, Object: f.credentials, Text: "--credentials-file", Err: err}
	}
	opts := natsserver.Options{Dir: f.dir, Listen: f.listen, Credentials: login, NKeys: f.nkeys}
	if f.cert == "" && f.ca+f.clientCA != "" {
		return outcome.Usage("", "--ca and --client-ca are for a server with a certificate: --tls-cert, --tls-key")
	}
	if opts.TLS, err = f.config(); err != nil {
		return err
	}
	if f.cluster != "" {
		opts.Cluster = &natsserver.Cluster{Name: f.name, Listen: f.cluster, Peers: f.peers}
	}
	starting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	s, err := natsserver.Start(starting, opts)
	if insecure, ok := errors.AsType[*natsqueue.InsecureError](err); ok {
		return outcome.Usage("Give it a certificate (--tls-cert, --tls-key), or let it listen on 127.0.0.1.", "%v", insecure)
	}
	if err != nil {
		return &outcome.Error{Object: f.dir, Text: "queue server", Err: err}
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := json.NewEncoder(t.stdout).Encode(map[string]string{"listening": s.URL()}); err != nil {
		return err
	}
	service.Ready()
	<-ctx.Done()
	return nil
}

func (t *tool) fleetRunCommand() *cobra.Command {
	f, jf, label, run := &queueFlags{}, &jobFlags{}, "", ""
	cmd := &cobra.Command{
		Use:   "run FILE --queue URL --credentials-file FILE [--label LABEL] [--run ID]",
		Short: "Have workers back up the VMs of a job, and wait for them",
		Long: text(`
Find the VMs of a job file, put a task for each into the queue, and wait until each has an outcome. Workers that reach the label and
have the same job file do the backups (hikae worker): through the queue go names of VMs, and neither addresses nor secrets. Each VM gets one point,
whatever becomes of workers and lines meanwhile.

A command that is ended leaves its tasks in the queue. Begun again with the same --run it waits for the rest; hikae fleet cancel takes
them back. Copies, retention and checks of the file are not done here: run them by hikae job, forget and verify.`),
		Example: example(`hikae fleet run nightly.yaml --queue tls://queue:4222 --credentials-file /etc/hikae/queue --label site/berlin`),
		Args:    want("FILE"),
	}
	f.required(cmd)
	cmd.Flags().StringVar(&label, "label", "default", "what a worker must reach")
	cmd.Flags().StringVar(&run, "run", "", "`ID` of the run, to go on with one; default: a new one")
	cmd.Flags().StringArrayVar(&jf.only, "only", nil, "only the `VM`s of this name or pattern; may repeat")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		file, err := readJob(t, args[0])
		if err != nil {
			return nil, err
		}
		j, err := t.openJob(ctx, jf, file, true)
		if err != nil {
			return nil, err
		}
		if run == "" {
			run = newRunID(time.Now())
		}
		r := fleet.Run{Job: file.Name, Run: run, Tasks: fleetTasks(j, label)}
		if err := j.Close(); err != nil {
			return nil, err
		}
		t.end() // the wait may be long, and hosts' sessions are few
		q, err := f.open(ctx, t)
		if err != nil {
			return nil, err
		}
		defer q.Close()
		t.tell("run %s: %d tasks", run, len(r.Tasks))
		res, err := fleet.Dispatch(ctx, q, r, &fleet.DispatchOptions{Outcomes: func(o fleet.Outcome) {
			t.tell("%s: %s by %s in %s", o.VM, o.State, o.Worker, show.Seconds(o.Seconds))
		}})
		return fleetReply(res), err
	})
	return cmd
}

// fleetTasks are the VMs of a job as tasks. One that cannot be backed up is a task too: its worker says why.
func fleetTasks(j *openJob, label string) (out []fleet.Task) {
	for _, vm := range j.vms {
		task := fleet.Task{ID: vm.name, VM: vm.name, Kind: string(job.KindBackup), Label: label}
		if vm.err == nil {
			task.Claim = vm.claim()
		}
		out = append(out, task)
	}
	return out
}

func fleetReply(res fleet.Result) *reply {
	r := &reply{doc: res}
	for _, o := range res.Outcomes {
		for _, w := range o.Warnings {
			r.warnings = append(r.warnings, o.VM+": "+w)
		}
	}
	r.text = func(p *show.Printer) error {
		return p.Printf("run %s of %s: %s, %s in %s\n", res.Run, res.Job, string(res.State), show.Count(len(res.Outcomes), "VM"), show.Seconds(res.Seconds))
	}
	return r
}

// fleetStatus is what a queue holds.
type fleetStatus struct {
	queue.Counts
	Runs []fleet.Status     `json:"runs"`
	Dead []queue.DeadLetter `json:"deadLetters"`
}

func (t *tool) fleetStatusCommand() *cobra.Command {
	f := &queueFlags{}
	cmd := &cobra.Command{Use: "status --queue URL --credentials-file FILE [JOB]", Short: "Say how far runs are, and what the queue holds", Args: cobra.MaximumNArgs(1)}
	f.required(cmd)
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		q, err := f.open(ctx, t)
		if err != nil {
			return nil, err
		}
		defer q.Close()
		doc := &fleetStatus{Dead: []queue.DeadLetter{}}
		if doc.Counts, err = q.Counts(ctx); err != nil {
			return nil, err
		}
		if doc.Runs, err = fleet.Runs(ctx, q, firstOf(args)); err != nil {
			return nil, err
		}
		for d, err := range q.Dead(ctx) {
			if err != nil {
				return nil, err
			}
			doc.Dead = append(doc.Dead, d)
		}
		return &reply{doc: doc, loud: true, text: doc.print}, nil
	})
	return cmd
}

func firstOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func (d *fleetStatus) print(p *show.Printer) error {
	err := p.Printf("%d tasks wait, %d are taken, %d are dead letters\n", d.Waiting, d.Taken, d.Counts.Dead)
	for _, r := range d.Runs {
		if err == nil {
			err = p.Printf("%s %s  %d tasks: %d done, %d warned, %d failed, %d cancelled\n", r.Job, r.Run, r.Tasks, r.States[fleet.Done], r.States[fleet.Warned],
				r.States[fleet.Failed], r.States[fleet.Cancelled])
		}
	}
	for _, dead := range d.Dead {
		if err == nil {
			err = p.Printf("dead: %s: %s\n", dead.Message.ID, dead.Why)
		}
	}
	return err
}

func (t *tool) fleetCancelCommand() *cobra.Command {
	f := &queueFlags{}
	cmd := &cobra.Command{Use: "cancel --queue URL --credentials-file FILE JOB RUN", Short: "Have workers end a run", Args: want("JOB", "RUN")}
	f.required(cmd)
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		q, err := f.open(ctx, t)
		if err != nil {
			return nil, err
		}
		defer q.Close()
		if err := fleet.Cancel(ctx, q, args[0], args[1]); err != nil {
			return nil, &outcome.Error{Kind: outcome.Of(err).Kind, Object: args[1], Text: "run", Err: err}
		}
		return &reply{doc: map[string]string{"job": args[0], "cancelled": args[1]},
			text: func(p *show.Printer) error { return p.Printf("%s\n", fmt.Sprintf("run %s is cancelled", args[1])) }}, nil
	})
	return cmd
}
