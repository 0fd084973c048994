// Imported before a program: everything it sends over sockets is late.
import { Socket } from 'node:net';
const write = Socket.prototype.write;
Socket.prototype.write = function (...args) {
  setTimeout(() => write.apply(this, args), 50);
  return true;
};
