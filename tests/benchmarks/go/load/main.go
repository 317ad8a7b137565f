// The load generator: reads a plan (JSON) from stdin, sends its requests, prints what it saw (JSON).
//
// It knows nothing of Kubernetes: what to send is in the plan. Everything is bounded, in count or in time, and only
// loopback is ever called.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

type plan struct {
	Sides []*side `json:"sides"`
	Turns *turns  `json:"turns"`
	Until *until  `json:"until"`
}

func main() {
	var p plan
	err := json.NewDecoder(os.Stdin).Decode(&p)
	for _, s := range p.Sides {
		if err == nil {
			err = s.prepare()
		}
	}
	var seen any
	switch {
	case err != nil:
	case p.Turns != nil:
		seen = p.Turns.run(p.Sides)
	case p.Until != nil:
		seen, err = p.Until.run(p.Sides)
	default:
		err = fmt.Errorf("the plan says neither turns nor until")
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(seen)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
