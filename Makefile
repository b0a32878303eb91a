# Headwater's commands. `make` alone lists them.
SHELL := /bin/bash
CARGO ?= cargo
export KEEP LONG PAGE

.DEFAULT_GOAL := help
.PHONY: help build test demo bench bench-snapshots bench-apply stack-up stack-down check-deploy

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the release binary, target/release/headwater
	@deploy/local/bootstrap build
	$(CARGO) build --release --workspace --bins

test: ## formatting, lints, unit tests, end-to-end tests on real servers (which it starts and stops)
	@deploy/local/test

demo: ## real servers, `headwater run`, a visible load, its records as they arrive (KEEP=1 leaves all of it up); SCENARIO=shop|profile|saga|ledger plays services in a terminal and on a page (PAGE=1 leaves the playing to you; LONG=1)
	@deploy/local/$(if $(SCENARIO),scenario $(SCENARIO),demo)

bench: ## throughput beside pg_recvlogical, and latency; Markdown on stdout (ROWS=, ROUNDS=; AGAINST=revision)
	@deploy/local/bench

bench-snapshots: ## copies of a table beside psql's COPY, and latency during one; Markdown on stdout (ROWS=, ROUNDS=)
	@deploy/local/bench-snapshots

bench-apply: ## rows from Kafka into a replica beside psql's COPY; Markdown on stdout (ROWS=, ROUNDS=)
	@deploy/local/bench-apply

stack-up: ## the servers alone: Kafka, registry, PostgreSQL 16
	@deploy/local/stack up kafka registry pg 16
	@deploy/local/stack env

stack-down: ## stop them
	@deploy/local/stack down

check-deploy: ## what can be checked of scripts and compose file without starting anything
	@deploy/local/check
