/** The routes of the main port that are no AWS calls. Everything here is open to anybody, so it tells nothing. */

import express, { type ErrorRequestHandler, type Express } from 'express'
import type { Log } from '../base/log.ts'

/** `GET /healthz`: the process answers. Anything else is 404, in JSON. */
export function openApp(log: Log): Express {
  const app = plainExpress()
  app.get('/healthz', (_request, response) => void response.json({ status: 'ok' }))
  return endWithJson(app, log)
}

/** Express without what it adds by itself. */
export function plainExpress(): Express {
  const app = express()
  app.disable('x-powered-by')
  app.disable('etag')
  return app
}

/** Answers in JSON what no route answered and what a route threw, which the log says. Call it last. */
export function endWithJson(app: Express, log: Log): Express {
  app.use((request, response) => void response.status(404).json({ message: `There is nothing at ${request.method} ${request.path}.` }))
  const failed: ErrorRequestHandler = (error: { readonly status?: unknown }, { method, path }, response, next) => {
    if (response.headersSent) return next(error)
    // Express itself refuses malformed percent-encoding with a status below 500; the rest is ours.
    const status = typeof error.status === 'number' && error.status >= 400 && error.status < 500 ? error.status : 500
    if (status === 500) log.error({ method, path, err: error }, 'a request that is no call failed')
    response.status(status).json({ message: status < 500 ? 'The request is malformed.' : 'The request failed.' })
  }
  app.use(failed)
  return app
}
