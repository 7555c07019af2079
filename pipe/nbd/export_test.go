package nbd

// Forms for tests: what a client asks for, and a server grants, at most.
var Forms = map[string]*form{"simple": of(formSimple), "structured": of(formStructured), "extended": of(formExtended)}

func of(f form) *form { return &f }

// AtMost limits a client to a form.
func (o Options) AtMost(form string) *Options {
	o.most = Forms[form]
	return &o
}

// FormName is the form that a client uses.
func (c *Client) FormName() string {
	for name, f := range Forms {
		if *f == c.terms.form {
			return name
		}
	}
	return ""
}

// CutConnections breaks all connections of a client, as a network does.
func (c *Client) CutConnections() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.links {
		l.raw.Close()
	}
}

// Connections is how many connections stand.
func (c *Client) Connections() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.links)
}
