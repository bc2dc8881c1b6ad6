/// <reference types="node" />
// The guest API of Copper. Every call but vmid() takes a callback as its last argument, or returns a promise.

/** Room for clones that was promised. */
export interface Ticket {
  id: string;
  status: string;
  cpus: number;
  vms: number;
  mincpuspervm: number;
}

/** A clone that was made on a ticket. */
export interface Clone {
  vmid: number;
  ip: string;
  state: string;
}

/** A live VM of this virtual cluster; the master has no parent. */
export interface Vm {
  vmid: number;
  address: string;
  generation: number;
  parent: number | null;
  state: string;
  host: string;
}

/** A VM's memory in bytes. */
export interface Memory {
  vmid: number;
  nominal: number;
  shared: number;
  own: number;
}

/** How a clone ended: its status, -1 if it died without; what it left. */
export interface Joined {
  vmid: number;
  status: number;
  file: Buffer | null;
}

/** What calls fail with, but for wrong arguments: those are TypeErrors and RangeErrors with the same members. */
export class GridcentricError extends Error {
  /** Such as "EBUSY". */
  code: string;
  /** The negative errno, such as -16. */
  errno: number;
}

export type Failure = GridcentricError | ((TypeError | RangeError) & { code: string; errno: number });
/** Gets the value, or undefined and why. */
export type Callback<T> = (value: T | undefined, error?: Failure) => void;
/** Gets the number, or a negative errno and why. */
export type NumberCallback = (value: number, error?: Failure) => void;
/** A ticket or its id. */
export type TicketOrId = Pick<Ticket, "id"> | string;

/** This VM's number, at once: 0 in the master, 1, 2, 3 … in clones. */
export function vmid(): number;

export function ismaster(): Promise<boolean>;
export function ismaster(cb: Callback<boolean>): void;

/** The number of the clone call that made this VM, 0 in the master. It only grows. */
export function generation(): Promise<number>;
export function generation(cb: NumberCallback): void;

/** This VM's address on the private network; empty where there is none. */
export function my_ip(): Promise<string>;
export function my_ip(cb: Callback<string>): void;

/** Reserves room for clones, and waits up to `timeout` milliseconds for it. */
export function request_ticket(maxcpus: number, minvms: number, mincpuspervm: number, timeout: number): Promise<Ticket>;
export function request_ticket(
  maxcpus: number,
  minvms: number,
  mincpuspervm: number,
  timeout: number,
  cb: Callback<Ticket>,
): void;

/** Forks this VM onto a ticket, or into a number of clones: 0 in the caller, the clone's vmid in each clone. */
export function clone(ticket: TicketOrId | number): Promise<number>;
export function clone(ticket: TicketOrId | number, cb: NumberCallback): void;

export function list_tickets(): Promise<Ticket[]>;
export function list_tickets(cb: Callback<Ticket[]>): void;

/** The clones made on a ticket, with their addresses. */
export function list_ticket_domains(ticket: TicketOrId): Promise<Clone[]>;
export function list_ticket_domains(ticket: TicketOrId, cb: Callback<Clone[]>): void;

/** Every live VM of this virtual cluster. */
export function list(): Promise<Vm[]>;
export function list(cb: Callback<Vm[]>): void;

/** The memory of this VM and its generation. */
export function stat(): Promise<Memory[]>;
export function stat(cb: Callback<Memory[]>): void;

/** A barrier in a clone. */
export function sync(): Promise<0>;
export function sync(cb: NumberCallback): void;
/** A barrier in the VM that cloned; `timeout` in milliseconds. */
export function sync(ticket: TicketOrId, timeout: number): Promise<0>;
export function sync(ticket: TicketOrId, timeout: number, cb: NumberCallback): void;

/** Ends this clone, and reports `status` (0 to 255) and `file` (up to 49,152 bytes). Only a failure comes back. */
export function join(status?: number, file?: NodeJS.ArrayBufferView): Promise<never>;
export function join(cb: NumberCallback): void;
export function join(status: number, cb: NumberCallback): void;
export function join(status: number, file: NodeJS.ArrayBufferView, cb: NumberCallback): void;

/** Ends this clone; nobody is told. Only a failure comes back. */
export function join_noreport(): Promise<never>;
export function join_noreport(cb: NumberCallback): void;

/** Waits until every clone of the ticket ended; `timeout` in milliseconds, without it for ever. */
export function join_wait(ticket: TicketOrId, timeout?: number): Promise<Joined[]>;
export function join_wait(ticket: TicketOrId, cb: Callback<Joined[]>): void;
export function join_wait(ticket: TicketOrId, timeout: number, cb: Callback<Joined[]>): void;

/** Ends these clones. Their resources are free when it answers. */
export function kill(vmids: number | number[]): Promise<0>;
export function kill(vmids: number | number[], cb: NumberCallback): void;

/** Ends all clones that were made together with this one. */
export function kill_generation(vmid: number): Promise<0>;
export function kill_generation(vmid: number, cb: NumberCallback): void;

/** Ends all clones of this VM, and theirs. */
export function killall(): Promise<0>;
export function killall(cb: NumberCallback): void;
